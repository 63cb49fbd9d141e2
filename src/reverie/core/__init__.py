"""What everything else stands on: batches, the card of a model, devices, ranks."""
