"""Tools of passes: constant folding, building kernels, packed layouts, transposes."""
