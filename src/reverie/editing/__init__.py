"""What one can do with a latent space."""
