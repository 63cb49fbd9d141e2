"""Likelihoods, dequantisation, bits per dimension, conditioning."""
