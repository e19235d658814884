"""What a caller holds: an executable, how it is loaded, its signature."""
