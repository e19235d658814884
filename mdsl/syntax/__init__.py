"""Text <-> IR."""
