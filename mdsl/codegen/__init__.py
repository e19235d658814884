"""Micro-kernel IR to LLVM IR to native code: the proof of bounds, the emitter, the cache of objects."""
