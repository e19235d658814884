"""Passes on structured ops on tensors, and the one that cuts them into tiles."""
