"""Learners: each is one file."""
