"""What is not about compilers: atomic writes, the disk cache, progress, pausing the collector, file types, sums over processes."""
