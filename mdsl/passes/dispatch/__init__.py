"""Passes on loops of dispatches on tensors, and the one that gives the tensors memory."""
