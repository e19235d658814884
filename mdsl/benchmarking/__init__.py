"""Measuring programs: times, profiles, ablation, the machine's peak, other runtimes."""
