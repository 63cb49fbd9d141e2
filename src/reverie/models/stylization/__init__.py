"""Feed-forward style transfer: a network for one style, and one for any."""
