"""Diffusion: schedules, samplers, guidance. Here so far: samplers, against the exact denoiser of a Gaussian mixture."""
