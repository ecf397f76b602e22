"""Launches recorded, repeated, and turned into CUDA graphs."""
