"""mdsl."""
