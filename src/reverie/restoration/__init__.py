"""Restoration: degraded observations back to images, by operators and solvers."""
