"""The dialects, one file each: declarations of operations, with their verifiers and constant folding."""
