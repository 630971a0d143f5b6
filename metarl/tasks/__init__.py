"""Task families: declarations, distributions and registration."""
