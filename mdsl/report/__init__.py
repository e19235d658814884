"""What a person reads about passes and runs: IR diffs, timings, checks, tables."""
