"""The base layer: batches, model cards, options, devices, ranks."""
