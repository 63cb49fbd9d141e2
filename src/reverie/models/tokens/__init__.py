"""Images as tokens, and distributions of the tokens."""
