"""Training: batches, rates, steps, checkpoints, and what went wrong in one."""
