"""Tools of passes: replacing, constants, clean-up, building kernels."""
