"""Passes on memrefs: planning memory, and lowering structured ops to vector or scalar loops."""
