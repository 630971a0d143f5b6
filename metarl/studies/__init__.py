"""Studies of several runs: comparisons, their processes and curves."""
