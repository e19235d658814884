"""Passes on loops over tiles, and the one that makes micro-kernels of their bodies."""
