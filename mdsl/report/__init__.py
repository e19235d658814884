"""Reports on passes: IR diffs, timings, checks of meaning."""
