"""Lossless compression of images by models that state exact probabilities."""
