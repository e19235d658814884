"""Facts about IR, without rewriting it: aliasing, intervals, footprints, rows, loop nests."""
