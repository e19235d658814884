"""Passes on memrefs, and those that write the loops of the kernels."""
