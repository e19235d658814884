"""Text <-> IR."""

from mdsl.syntax import printer as printer  # ops print themselves once it is loaded
