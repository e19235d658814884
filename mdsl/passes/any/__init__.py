"""Passes for a program on any level."""
