"""Rollouts, advantages and baselines."""
