"""Simulations: what steps the environments of a family."""
