"""Evaluations of adaptation, their statistics and figures."""
