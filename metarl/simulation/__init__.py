"""Simulations, which step the environments of a family."""
