"""Machines: what an ISA and a core can do."""
