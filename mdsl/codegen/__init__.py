"""Micro-kernel IR to LLVM to native code: the machine's description, the emitter, the object cache."""
