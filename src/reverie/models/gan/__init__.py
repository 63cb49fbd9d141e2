"""Generative adversarial networks: a generator learns to make what a discriminator takes for real."""
