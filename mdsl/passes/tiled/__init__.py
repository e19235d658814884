"""Passes on loops over tiles, up to outlining their bodies as micro-kernels."""
