"""Tensors in, tensors out. Nothing here knows of training, models or data."""
