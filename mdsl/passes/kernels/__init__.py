"""Passes on micro-kernels and their dispatches, up to the lowering to the mvm dialect."""
