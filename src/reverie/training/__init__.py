"""Training: the loop, its steps and callbacks, checkpoints and run directories."""
