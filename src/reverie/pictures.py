"""Between tensors and files: uint8 edges, grids, films, and the plots of a run.

Inside, pictures are float32 (B, C, H, W) in [-1, 1]; at the edges they are uint8 (B, H, W, C).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reverie.core.errors import ReverieError, UsageError
from reverie.core.files import atomic, disk_errors


def to_uint8(images: Tensor) -> np.ndarray:
    """(B, C, H, W) in [-1, 1] to uint8 (B, H, W, C); values outside are clamped."""
    scaled = images.detach().float().add(1).mul(127.5).round_().clamp_(0, 255)
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def to_float(images: np.ndarray | Tensor, device: torch.device | str = "cpu") -> Tensor:
    """uint8 (B, H, W, C) to float32 (B, C, H, W) in [-1, 1], channels_last in memory."""
    if isinstance(images, np.ndarray):
        images = torch.from_numpy(np.require(images, requirements="W"))  # torch wants to own what it reads
    tensor = images.to(device, non_blocking=True)
    return tensor.permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1)


def to_image(picture: np.ndarray) -> Image.Image:
    """uint8 (H, W, 1 or 3) to a Pillow picture."""
    return Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)


def grid(images: np.ndarray, columns: int | None = None, gap: int = 2, scale: int | None = None) -> np.ndarray:
    """uint8 (N, H, W, C) to one picture (rows*, columns*, C) on white, row by row.

    Args:
        columns: pictures in a row; None makes it nearly square.
        gap: white pixels between pictures.
        scale: whole-number enlargement; None enlarges small pictures to about 56 pixels, so that they can be seen.
    """
    count, height, width, channels = images.shape
    columns = min(count, columns or math.ceil(math.sqrt(count)))
    rows = math.ceil(count / columns)
    scale = scale or max(1, round(56 / height))
    images = images.repeat(scale, 1).repeat(scale, 2)
    height, width = height * scale, width * scale
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255, np.uint8)
    for index, picture in enumerate(images):
        row, column = divmod(index, columns)
        top, left = gap + row * (height + gap), gap + column * (width + gap)
        sheet[top : top + height, left : left + width] = picture
    return sheet


def save(path: Path | str, picture: np.ndarray) -> Path:
    """Write one uint8 (H, W, C) picture, atomically; the ending chooses the format."""
    path = Path(path)
    if path.suffix.lower() not in Image.registered_extensions():
        raise UsageError(f"Cannot write {path.name}: no picture format ends in {path.suffix!r}. Try .png.")
    with atomic(path) as aside:
        to_image(picture).save(aside)
    return path


def save_many(path: Path, drawn: np.ndarray, seeds: list[int]) -> None:
    """A grid (.png ...), an archive (.npz) or a folder of numbered pictures."""
    if path.suffix == ".npz":
        with atomic(path) as aside, aside.open("wb") as stream:
            np.savez_compressed(stream, images=drawn, seeds=np.array(seeds, np.int64))
    elif path.suffix:
        save(path, grid(drawn))
    else:
        if path.is_dir() and any(path.iterdir()):
            raise UsageError(f"{path} holds files already; nothing was touched. Choose an empty or a new folder.")
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        for index, one in enumerate(drawn):
            save(path / f"{index:06d}.png", one)


FILMS = (".webp", ".gif", ".mp4")  # endings; any other is one strip


def save_film(path: Path | str, frames: np.ndarray, seconds: float = 3.0, hold: float = 0.0) -> Path:
    """Write uint8 (N, H, W, C) frames as .webp, .gif or .mp4, or as one strip (any other picture ending).

    Args:
        seconds: length of the film.
        hold: seconds that the last frame stays on after that.
    Raises:
        ReverieError: mp4 asked for without the ``video`` extra.
    """
    path = Path(path)
    ending = path.suffix.lower()
    scale = max(1, round(160 / frames.shape[1]))
    if ending in (".webp", ".gif"):
        film = [to_image(frame) for frame in frames.repeat(scale, 1).repeat(scale, 2)]
        duration = [max(10, round(1000 * seconds / len(frames)))] * len(frames)
        duration[-1] += round(1000 * hold)
        options: dict[str, Any] = {"lossless": True} if ending == ".webp" else {}
        with atomic(path) as aside:
            film[0].save(aside, save_all=True, append_images=film[1:], duration=duration, loop=0, **options)
    elif ending == ".mp4":
        rate = len(frames) / seconds
        held = np.concatenate([frames, frames[-1:].repeat(round(hold * rate), 0)])
        _save_mp4(path, held.repeat(scale, 1).repeat(scale, 2), rate)
    else:
        return save(path, grid(frames, columns=min(len(frames), 20)))
    return path


def _save_mp4(path: Path, frames: np.ndarray, frames_per_second: float) -> None:
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise ReverieError(
            "mp4 films need an extra: pip install 'reverie[video]' (or ask for .webp or .gif)."
        ) from error
    frames = np.ascontiguousarray(np.broadcast_to(frames, (*frames.shape[:-1], 3)))
    with atomic(path) as aside:
        size = (frames.shape[2], frames.shape[1])
        writer = imageio_ffmpeg.write_frames(str(aside), size, fps=frames_per_second, macro_block_size=2)
        writer.send(None)
        for frame in frames:
            writer.send(frame)
        writer.close()


@contextlib.contextmanager
def figure(path: Path | str, width: float = 7, height: float = 4.5) -> Iterator:
    """A matplotlib figure (no display, no global state) that is saved to ``path`` on leaving; sizes in inches."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(width, height), layout="constrained")
    yield drawing
    with atomic(path) as aside:
        drawing.savefig(aside, dpi=110)


def plot_curves(path: Path | str, curves: Mapping[str, tuple[Sequence[int], Sequence[float]]]) -> Path:
    """One panel per curve, (training steps, values): the raw values faint, their running mean strong."""
    columns = min(3, len(curves))
    rows = math.ceil(len(curves) / columns)
    with figure(path, width=4.2 * columns, height=3.1 * rows) as drawing:
        axes = drawing.subplots(rows, columns, squeeze=False).flat
        for axis, (name, (steps, values)) in zip(axes, curves.items(), strict=False):
            y = np.asarray(values, dtype=float)
            axis.plot(steps, y, color="#9db7d5", linewidth=0.8)
            window = max(1, len(y) // 30)
            if window > 1:
                mean = np.convolve(y, np.ones(window) / window, "valid")
                axis.plot(steps[window // 2 : window // 2 + len(mean)], mean, color="#1f4e8c", linewidth=1.6)
            tail = y[max(1, len(y) // 50) :]  # the first moments would flatten the rest of the curve
            if len(tail) > 1 and np.ptp(tail) > 0:
                low, high = tail.min(), np.quantile(tail, 0.999)
                axis.set_ylim(low - 0.05 * (high - low), high + 0.1 * (high - low))
            axis.set_title(name, fontsize=10)
            axis.set_xlabel("step", fontsize=8)
            axis.tick_params(labelsize=8)
            axis.grid(alpha=0.3)
        for axis in list(drawing.axes)[len(curves) :]:
            axis.remove()
    return Path(path)


def plot_schedule(
    path: Path | str, times: np.ndarray, curves: Mapping[str, np.ndarray], drawn: np.ndarray, stops: np.ndarray
) -> Path:
    """A noise schedule: its curves over t, the log signal-to-noise ratio, and which times training draws.

    Args:
        times: (N,); curves: "alpha" and "sigma" (N,) at these times.
        drawn: times (M,) of training.
        stops: times at which sampling evaluates the network, marked on the middle panel.
    """
    log_snr = 2 * np.log(curves["alpha"] / curves["sigma"])
    with figure(path, width=12.6, height=3.4) as drawing:
        left, middle, right = drawing.subplots(1, 3)
        for name, values in curves.items():
            left.plot(times, values, label=name)
        if max(values.max() for values in curves.values()) > 2:
            left.set_yscale("log")
        left.legend(frameon=False)
        left.set_title("x = alpha x0 + sigma noise", fontsize=10)
        middle.plot(times, log_snr, color="#1f4e8c")
        middle.plot(stops, np.interp(stops, times, log_snr), "o", color="#c2542d", markersize=4, label="sampling stops")
        middle.legend(frameon=False)
        middle.set_title("log signal-to-noise ratio: 2 log(alpha / sigma)", fontsize=10)
        right.hist(drawn, bins=60, range=(0, 1), density=True, color="#9db7d5")
        right.set_title("times that training draws (density)", fontsize=10)
        for axis in (left, middle, right):
            axis.set_xlabel("t (0 picture, 1 noise)", fontsize=8)
            axis.tick_params(labelsize=8)
            axis.grid(alpha=0.3)
    return Path(path)


def plot_latent_map(
    path: Path | str, points: np.ndarray, labels: np.ndarray, classes: Sequence[str], prior: np.ndarray, title: str
) -> Path:
    """Codes in the plane, coloured by class, over where N(0, I) falls in the same plane.

    Args:
        points: (N, 2) codes.
        labels: (N,) class index, -1 for none.
        prior: (M, 2) draws of N(0, I), projected the same way.
    """
    with figure(path, width=7.6, height=5.8) as drawing:
        axis = drawing.subplots()
        axis.scatter(*prior.T, s=5, color="#c8c8c8", label="N(0, I)", zorder=1)
        for index in [i for i in (-1, *range(len(classes))) if np.any(labels == i)]:
            name = "pictures" if index < 0 else classes[index]
            where = points[labels == index]
            axis.scatter(
                *where.T, s=7, alpha=0.75, label=name, zorder=2, color=f"C{max(index, 0)}" if index < 10 else None
            )
        if len(classes) <= 24:
            axis.legend(fontsize=8, markerscale=2, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.3)
    return Path(path)
