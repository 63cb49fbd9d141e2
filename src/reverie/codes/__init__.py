"""What codes are good for: latents of any model that encodes, as points, features and indices."""
