"""Passes on loops of dispatches on tensors, up to bufferization."""
