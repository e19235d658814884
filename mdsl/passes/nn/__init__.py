"""Passes on the graph of nn ops, and the one that leaves it."""
