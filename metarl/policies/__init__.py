"""Policies as functions of named parameters."""
