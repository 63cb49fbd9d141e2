"""Samples from a model trained with reverie, by diffusers' schedulers: equal seeds give equal samples.

Needs only torch and diffusers.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor

from reverie.core.noise import Noise


class ReveriePipeline(DiffusionPipeline):
    """Unconditional or class-conditional image generation."""

    def __init__(self, unet, scheduler):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        num_inference_steps: int = 50,
        class_labels: int | Sequence[int] | None = None,
        guidance_scale: float = 1.0,
        seeds: Sequence[int] | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ):
        """Generate images.

        Args:
            batch_size: number of images, unless class_labels, seeds or latents determine it.
            num_inference_steps: of the scheduler; a divisor of its training timesteps avoids rounding.
            class_labels: a class, or a class per image; -1 or None is any class.
            guidance_scale: of classifier-free guidance; 1 is without guidance.
            seeds: one per image, for reverie's noise.
            generator: for torch's noise instead.
            latents: noise (B, C, H, W) instead.
            output_type: "pil", "np" (B, H, W, C) or "pt" (B, C, H, W), the latter two in [0, 1].
        """
        unet, scheduler, device = self.unet, self.scheduler, self._execution_device
        size = unet.config.sample_size
        shape = (unet.config.in_channels, *([size, size] if isinstance(size, int) else size))
        if latents is None and seeds is not None:
            latents = Noise.of_seeds(list(seeds))(*shape)
        if latents is None:
            rows = batch_size if class_labels is None or isinstance(class_labels, int) else len(class_labels)
            latents = randn_tensor((rows, *shape), generator=generator, device=device, dtype=unet.dtype)
        x = latents.to(device, unet.dtype) * getattr(scheduler, "init_noise_sigma", 1.0)
        cond, null = self._labels(class_labels, len(x)), self._labels(None, len(x))

        accepted = inspect.signature(scheduler.step).parameters
        options: dict[str, Any] = {"generator": generator} if "generator" in accepted else {}
        if "use_clipped_model_output" in accepted:
            options["use_clipped_model_output"] = True
        flow = isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
        if flow:  # uniform in time, from pure noise to one step before the image
            scheduler.set_timesteps(sigmas=1 - np.arange(num_inference_steps) / num_inference_steps, device=device)
        else:
            scheduler.set_timesteps(num_inference_steps, device=device)
        for t in self.progress_bar(scheduler.timesteps):
            scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            output = unet(scaled, t, **cond).sample
            if guidance_scale != 1 and cond:
                output = torch.lerp(unet(scaled, t, **null).sample, output, guidance_scale)
            if flow:  # clamp the predicted image to [-1, 1]; the other schedulers do this themselves
                sigma = t / scheduler.config.num_train_timesteps
                output = (x - (x - sigma * output).clamp(-1, 1)) / sigma
            x = scheduler.step(output, t, x, **options).prev_sample

        images = (x / 2 + 0.5).clamp(0, 1)
        if output_type != "pt":
            images = images.float().cpu().permute(0, 2, 3, 1).numpy()  # (B, H, W, C)
            if output_type == "pil":
                images = self.numpy_to_pil(images)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _labels(self, labels: int | Sequence[int] | None, rows: int) -> dict[str, torch.Tensor]:
        """The network's class condition; {} for an unconditional network."""
        count = getattr(self.unet.config, "num_class_embeds", None)
        if not count:
            if labels is not None:
                raise ValueError("This model was trained without classes.")
            return {}
        labels = (
            [-1 if labels is None else labels] * rows if labels is None or isinstance(labels, int) else list(labels)
        )
        if len(labels) != rows or not all(-1 <= label < count for label in labels):
            raise ValueError(f"class_labels must be {rows} labels from 0 to {count - 2}, or -1, not {labels}.")
        return {"class_labels": torch.tensor(labels, device=self._execution_device).remainder(count)}
