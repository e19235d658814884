"""Passes on structured ops on tensors: fusion, data tiling, Winograd, tiling."""
