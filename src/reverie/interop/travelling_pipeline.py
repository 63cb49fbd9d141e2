"""Pictures from a model trained with reverie, by diffusers' schedulers: equal seeds give the pictures of reverie.

It needs torch and diffusers only.
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
    """From noise to pictures, with or without classes."""

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
        """Draw pictures.

        Args:
            batch_size: how many, where nothing else says it.
            num_inference_steps: of the scheduler; a divisor of its training timesteps loses nothing to rounding.
            class_labels: one class, or one for each picture; -1 or None is any class.
            guidance_scale: 1 is as trained, above it pictures are more of their class.
            seeds: one for each picture: reverie's own noise.
            generator: torch's noise instead.
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
        told, null = self._labels(class_labels, len(x)), self._labels(None, len(x))

        known = inspect.signature(scheduler.step).parameters
        options: dict[str, Any] = {"generator": generator} if "generator" in known else {}
        if "use_clipped_model_output" in known:
            options["use_clipped_model_output"] = True
        flow = isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
        if flow:  # even in time, from pure noise to one step before the picture
            scheduler.set_timesteps(sigmas=1 - np.arange(num_inference_steps) / num_inference_steps, device=device)
        else:
            scheduler.set_timesteps(num_inference_steps, device=device)
        for t in self.progress_bar(scheduler.timesteps):
            seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            said = unet(seen, t, **told).sample
            if guidance_scale != 1 and told:
                said = torch.lerp(unet(seen, t, **null).sample, said, guidance_scale)
            if flow:  # the picture behind the noise stays within [-1, 1]; the other schedulers see to that themselves
                sigma = t / scheduler.config.num_train_timesteps
                said = (x - (x - sigma * said).clamp(-1, 1)) / sigma
            x = scheduler.step(said, t, x, **options).prev_sample

        images = (x / 2 + 0.5).clamp(0, 1)
        if output_type != "pt":
            images = images.float().cpu().permute(0, 2, 3, 1).numpy()  # (B, H, W, C)
            if output_type == "pil":
                images = self.numpy_to_pil(images)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _labels(self, labels: int | Sequence[int] | None, rows: int) -> dict[str, torch.Tensor]:
        """What to tell the network of classes: nothing, where it knows none."""
        rows_of_classes = getattr(self.unet.config, "num_class_embeds", None)
        if not rows_of_classes:
            if labels is not None:
                raise ValueError("This model was trained without classes.")
            return {}
        asked = [-1 if labels is None else labels] * rows if labels is None or isinstance(labels, int) else list(labels)
        if len(asked) != rows or not all(-1 <= label < rows_of_classes for label in asked):
            raise ValueError(f"{rows} class labels from 0 to {rows_of_classes - 2}, or -1, are needed, not {asked}.")
        return {"class_labels": torch.tensor(asked, device=self._execution_device).remainder(rows_of_classes)}
