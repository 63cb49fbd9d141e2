"""Adversarial training: losses, gradient penalties, augmentation of the discriminator's inputs."""
