"""Networks: tensors in, tensors out, independent of training, models and data."""
