"""What is trained is the image: filters, DeepDream, style transfer. One canvas serves all."""
