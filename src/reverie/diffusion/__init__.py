"""Diffusion: noise schedules, predictions, samplers, time grids, guidance, likelihoods."""
