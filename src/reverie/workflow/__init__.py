"""Train, resume and rerun: data, model, loop and run directory together."""
