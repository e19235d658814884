"""The LLVM of scalar arithmetic, of one element or of a vector of them: what micro-kernels and opcodes share."""
