"""Passes on micro-kernels and their dispatches, and the one that makes bytecode's ops of these."""
