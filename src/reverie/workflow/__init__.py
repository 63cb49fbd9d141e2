"""Data, model, loop and run directory together: train, resume, rerun."""
