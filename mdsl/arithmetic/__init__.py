"""LLVM IR for arithmetic on scalars and vectors, which micro-kernels and opcodes share."""
