"""Backends: vector environments of task families whose ended episodes rest."""
