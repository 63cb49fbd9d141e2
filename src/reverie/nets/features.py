"""Activations of a network's layers by name, computed no deeper than the deepest layer asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn

from reverie.core.errors import UsageError, argument, suggest
from reverie.core.values import plain


class Layer(NamedTuple):
    """Size of a layer's activations: channels, and pixels of the image per activation along a side."""

    channels: int
    stride: int


def stride(size: int, x: Tensor) -> int:
    """Pixels per activation of a map from an image of a side; where padding leaves no integer, the power of two."""
    ratio = size / (x.shape[2] if x.ndim == 4 else 1)
    return max(1, int(ratio) if ratio.is_integer() else 2 ** round(math.log2(ratio)))


def as_map(x: Tensor) -> Tensor:
    """Tokens (B, N, C) as maps (B, C, H, W): a square where N is one, else a column; other outputs as they are."""
    if x.ndim != 3:
        return x
    side = math.isqrt(x.shape[1])
    return x.mT.unflatten(2, (side, side) if side * side == x.shape[1] else (-1, 1))


class _Complete(Exception):
    """Every layer has been computed; the rest of the network is skipped."""


class Features(nn.Module):
    """Images (B, C, H, W) in [-1, 1] to {layer: (B, channels, H / stride, W / stride)}.

    Args:
        network: any module; it is frozen here and in eval mode. Its layers are its modules, by their path.
        run: evaluates it on images; by default ``network(images)``.
        channels: of the images; 3 accepts grey images, too.
        aliases: other names of layers, as the literature has them: {"block5_conv2": "relu5_2"}.
        main: names of the layers to list; by default all.
        size: (H, W) of the images that ``layers`` is measured on.
        name: for messages.
    """

    def __init__(
        self,
        network: nn.Module,
        run: Callable[[Tensor], Any] | None = None,
        channels: int = 3,
        aliases: Mapping[str, str] | None = None,
        main: Sequence[str] = (),
        size: tuple[int, int] = (64, 64),
        name: str = "this network",
    ):
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        self.run, self.channels, self.size, self.name = run, channels, size, name
        self.aliases, self.main = dict(aliases or {}), tuple(main)

    @cached_property
    def layers(self) -> dict[str, Layer]:
        """Every layer that computes maps (B, C, H, W), tokens (B, N, C) or vectors (B, C) of images, in the order of
        computation.

        Measured once, on a black image of ``size``.
        """
        tensors = (*self.network.parameters(), *self.network.buffers(), torch.zeros(()))
        outputs: dict[str, Tensor] = {}
        with torch.inference_mode(False), torch.enable_grad():
            image = torch.zeros(1, self.channels, *self.size, device=tensors[0].device, requires_grad=True)
            self._compute(image, {name for name, _ in self.network.named_modules() if name}, outputs)
        of_image = {name: x for name, x in outputs.items() if x.requires_grad}  # not of time or text alone
        maps = {name: as_map(x) for name, x in of_image.items() if x.ndim in (2, 3, 4) and len(x) == 1}
        return {name: Layer(x.shape[1], stride(self.size[0], x)) for name, x in maps.items()}

    @property
    def main_layers(self) -> dict[str, Layer]:
        """The layers to list, by the names of the literature; ``layers`` has those within them, too."""
        return {name: self.layers[self.resolve(name)] for name in self.main or self.layers}

    def resolve(self, layer: str) -> str:
        """The module path of a layer or alias.

        Raises:
            UsageError: an unknown layer.
        """
        path = self.aliases.get(layer, layer) if isinstance(layer, str) else None
        if path is None or path not in dict(self.network.named_modules()):
            self._refuse(layer)
        return path

    def other_names(self, layer: str) -> list[str]:
        """The other names of a layer: its module path and aliases."""
        path = self.resolve(layer)
        names = [path, *(alias for alias, other in self.aliases.items() if other == path)]
        return [name for name in names if name != layer]

    def names(self, layers: Any) -> list[str]:
        """Names of layers as a list; a text is one name.

        Raises:
            UsageError: no names, an unknown layer, or one twice, also by another name.
        """
        layers = plain(layers)
        names = [layers] if isinstance(layers, str) else [*layers] if isinstance(layers, Iterable) else [layers]
        if not all(isinstance(name, str) for name in names):
            raise UsageError(f"{argument('layers')} must be names of layers, not {layers!r:.80}.")
        paths: dict[str, str] = {}
        for name in names:
            self.layer(name)
            path = self.resolve(name)
            if path in paths:
                also = f" (also as {paths[path]})" if paths[path] != name else ""
                raise UsageError(f"{argument('layers')} has {name} twice{also}.")
            paths[path] = name
        return names

    def layer(self, name: str) -> Layer:
        """The size of a layer's activations.

        Raises:
            UsageError: an unknown layer, or one that computes no map or vector of each image.
        """
        path = self.resolve(name)
        if path not in self.layers:
            raise UsageError(f"{name!r} of {self.name} computes no map or vector of each image.")
        return self.layers[path]

    def _refuse(self, layer: str) -> NoReturn:
        names, listed = [*self.layers, *self.aliases], [*self.main_layers]
        some = ", ".join(listed[:20]) + (" ..." if len(listed) > 20 else "")
        raise UsageError(f"{self.name} has no layer {layer!r}.{suggest(layer, names)} It has {some}")

    def forward(self, images: Tensor, layers: Iterable[str]) -> dict[str, Tensor]:
        """The activations of ``layers``, by the names given; gradients reach the images.

        Raises:
            UsageError: an unknown layer, one without a map or vector, or images too small for one.
        """
        paths = {layer: self.resolve(layer) for layer in layers}
        outputs: dict[str, Tensor] = {}
        try:
            self._compute(images, set(paths.values()), outputs)
        except RuntimeError as error:
            if "Output size is too small" not in str(error) and "Kernel size can't be greater" not in str(error):
                raise
            size = "x".join(map(str, images.shape[2:]))
            raise UsageError(f"Images of {size} pixels are too small for {', '.join(paths)} of {self.name}.") from error
        for layer, path in paths.items():
            if path not in outputs:
                self._refuse(layer)
        return {layer: as_map(outputs[path]) for layer, path in paths.items()}

    def _compute(self, images: Tensor, paths: set[str], outputs: dict[str, Tensor]) -> None:
        def keep(path: str) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                if isinstance(output, Tensor):
                    outputs.setdefault(path, output)
                if len(outputs) == len(paths):
                    raise _Complete

            return hook

        modules = dict(self.network.named_modules())
        handles = [modules[path].register_forward_hook(keep(path)) for path in paths]
        try:
            (self.run or self.network)(images)
        except _Complete:
            pass
        finally:
            for handle in handles:
                handle.remove()
