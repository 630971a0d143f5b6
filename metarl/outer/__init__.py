"""Outer loops: each improves any objective it is given and knows no MAML."""
