"""reverie: every family of deep generative image model under one roof."""

__version__ = "0.1.0"
