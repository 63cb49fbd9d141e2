"""Autoregressive models: each value given all before it."""
