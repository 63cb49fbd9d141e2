"""The textbook U-Net's configuration and noise schedules under diffusers' names, in both directions."""

from __future__ import annotations

from typing import Any, NoReturn

from reverie.core.errors import UsageError
from reverie.nets.shapes import sides

VERSION = "0.31.0"  # the oldest tested version of diffusers
PREDICTIONS = {"noise": "epsilon", "x0": "sample", "v": "v_prediction"}
SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
CHAINS = (  # schedulers that sample the same noise schedule
    "DDPMScheduler",
    "DDIMScheduler",
    "PNDMScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
)
_SAME = {  # diffusers' name: (ours, diffusers' default)
    "block_out_channels": ("widths", [224, 448, 672, 896]),
    "layers_per_block": ("depth", 2),
    "add_attention": ("mid_attention", True),
    "norm_num_groups": ("norm_groups", 32),
    "norm_eps": ("norm_eps", 1e-5),
    "downsample_padding": ("downsample_padding", 1),
    "flip_sin_to_cos": ("flip_sin_to_cos", True),
    "freq_shift": ("freq_shift", 0),
}
_ONLY = {  # values that the textbook network supports; the first is diffusers' default
    "act_fn": ("silu", "swish"),
    "time_embedding_type": ("positional",),
    "time_embedding_dim": (None,),
    "mid_block_type": ("UNetMidBlock2D",),
    "mid_block_scale_factor": (1,),
    "downsample_type": ("conv",),
    "upsample_type": ("conv",),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "attn_norm_num_groups": (None,),
    "resnet_time_scale_shift": ("default", "scale_shift"),
}
_ONLY_OF_CHAINS = {"trained_betas": (None,), "rescale_betas_zero_snr": (False,)}


def unet_config(kwargs: dict[str, Any]) -> dict[str, Any]:
    """UNet2DModel's config.json for ``ddpm_textbook`` with these arguments."""
    kinds = ["Attn" if index in kwargs["attention_levels"] else "" for index in range(len(kwargs["widths"]))]
    return {
        "_class_name": "UNet2DModel",
        "_diffusers_version": VERSION,
        "sample_size": sample_size(kwargs["shape"]),
        "in_channels": kwargs["channels"],
        "out_channels": kwargs["channels"],
        "down_block_types": [f"{kind}DownBlock2D" for kind in kinds],
        "up_block_types": [f"{kind}UpBlock2D" for kind in reversed(kinds)],
        **{name: kwargs[ours] for name, (ours, _) in _SAME.items()},
        "attention_head_dim": kwargs["head_dim"] or None,
        "resnet_time_scale_shift": "scale_shift" if kwargs["scale_shift"] else "default",
        "num_class_embeds": kwargs["classes"] + 1 if kwargs["conditional"] == "label" else None,
        "act_fn": "silu",
    }


def sample_size(shape: Any) -> int | list[int]:
    """A shape as diffusers' sample_size: the side of a square, else height and width."""
    height, width = sides(shape)
    return height if height == width else [height, width]


def unet_arguments(config: dict[str, Any]) -> dict[str, Any]:
    """Arguments of ``ddpm_textbook`` for the network of a UNet2DModel's config.json.

    Raises:
        UsageError: an unsupported network; the message names the key.
    """
    _check("unet/config.json", config, _ONLY)
    size, channels, labels = config.get("sample_size"), config.get("in_channels", 3), config.get("num_class_embeds")
    if not isinstance(size, int) and (not isinstance(size, list) or [type(side) for side in size] != [int, int]):
        _refuse("unet/config.json", "sample_size", size, "a side of squares, or height and width")
    if channels not in (1, 3):
        _refuse("unet/config.json", "in_channels", channels, "1 or 3 (latent diffusion would need its codec)")
    if config.get("out_channels", 3) != channels:
        _refuse("unet/config.json", "out_channels", config.get("out_channels", 3), f"in_channels, {channels}")
    down = config.get("down_block_types", ["DownBlock2D", *["AttnDownBlock2D"] * 3])
    for kind in down:
        if kind not in ("DownBlock2D", "AttnDownBlock2D"):
            _refuse("unet/config.json", "down_block_types", down, "DownBlock2D and AttnDownBlock2D")
    mirrored = [kind.replace("Down", "Up") for kind in reversed(down)]
    if (up := config.get("up_block_types", [*["AttnUpBlock2D"] * 3, "UpBlock2D"])) != mirrored:
        _refuse("unet/config.json", "up_block_types", up, f"the mirror of down_block_types, {mirrored}")
    same = {ours: config.get(name, default) for name, (ours, default) in _SAME.items()}
    if len(same["widths"]) != len(down):
        _refuse("unet/config.json", "block_out_channels", same["widths"], f"a number per block, {len(down)}")
    return same | {
        "shape": size,
        "channels": channels,
        "attention_levels": [index for index, kind in enumerate(down) if kind.startswith("Attn")],
        "head_dim": config.get("attention_head_dim", 8) or 0,
        "scale_shift": config.get("resnet_time_scale_shift", "default") == "scale_shift",
        "classes": labels or 0,
        "conditional": "label" if labels else "none",
    }


def chain_config(kwargs: dict[str, Any], betas: tuple[float, float]) -> dict[str, Any]:
    """scheduler_config.json of a discrete schedule, for DDIM from the last timestep on.

    Args:
        kwargs: arguments of ``ddpm`` or ``ddpm_textbook``: schedule, timesteps, prediction.
        betas: first and last of the linear schedule.
    """
    return {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": VERSION,
        "num_train_timesteps": kwargs["timesteps"],
        "beta_schedule": SCHEDULES[kwargs["schedule"]],
        "beta_start": betas[0],
        "beta_end": betas[1],
        "prediction_type": PREDICTIONS[kwargs["prediction"]],
        "clip_sample": True,
        "clip_sample_range": 1.0,
        "timestep_spacing": "trailing",
        "steps_offset": 0,
        "set_alpha_to_one": True,
    }


def chain_arguments(config: dict[str, Any]) -> dict[str, Any]:
    """Arguments of ``ddpm_textbook`` for the noise schedule of a scheduler_config.json; its sampler is ignored.

    Raises:
        UsageError: an unsupported schedule; the message names the key.
    """
    kinds = {
        "_class_name": CHAINS,
        "beta_schedule": tuple(SCHEDULES.values()),
        "prediction_type": tuple(PREDICTIONS.values()),
    }
    _check("scheduler_config.json", config, kinds | _ONLY_OF_CHAINS)
    ours = {name: key for key, name in (SCHEDULES | PREDICTIONS).items()}
    return {
        "schedule": ours[config.get("beta_schedule", "linear")],
        "timesteps": config.get("num_train_timesteps", 1000),
        "betas": [config.get("beta_start", 1e-4), config.get("beta_end", 0.02)],
        "prediction": ours[config.get("prediction_type", "epsilon")],
    }


def _check(file: str, config: dict[str, Any], kinds: dict[str, tuple[Any, ...]]) -> None:
    for key, allowed in kinds.items():
        if (value := config.get(key, allowed[0])) not in allowed:
            _refuse(file, key, value, " or ".join(map(repr, allowed)))


def _refuse(file: str, key: str, value: Any, allowed: str) -> NoReturn:
    raise UsageError(f"Cannot import this: in {file}, {key} is {value!r}. Supported: {allowed}.")
