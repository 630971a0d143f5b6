"""The inner loop and the meta-objectives that differentiate through it."""
