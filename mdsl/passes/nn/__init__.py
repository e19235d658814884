"""Passes on the graph of nn ops, up to the lowering to linalg."""
