"""The canvas of neural style transfer: its recipe, its loss, its sizes.

Gatys, Ecker and Bethge, CVPR 2016, arXiv:1508.06576: an image is optimised until its activations at a high layer are
those of the photograph (content) and the Gram matrices of its activations at several layers those of the painting
(style). Scaled errors, sizes by sqrt(2) and carried moments: crowsonkb/style-transfer-pytorch (2021).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.annotations import Count, Range, Weight
from reverie.core.batch import Batch
from reverie.core.cache import Progress
from reverie.core.noise import Noise
from reverie.core.precision import pick_precision
from reverie.dreaming.canvas import Canvas, Level, Loss, Pixels, resized
from reverie.dreaming.tiles import Statistics, Window, activations, evaluate, tiling, total
from reverie.nets.features import Features
from reverie.nets.perceptual import error_sums, gram_sums, total_variation
from reverie.optim.lbfgs import LBFGS
from reverie.pretrained import networks

SMALLEST = 32  # pixels of the shorter side in which VGG's fifth block still has two activations
_PROCESS = 6e8  # bytes of a process with a network
_PLANES = 4  # of a mask: itself, that of the level, those of the layers
_COPIES = 12  # of the image: all levels, gradient, photograph, content target, temporaries of a step ...


@dataclass(frozen=True)
class Recipe:
    """How an image is stylised.

    Attributes:
        content_weight, style_weight, tv_weight: of the content, of the style, and of the image's total variation.
        content_layer: a layer of the network, such as relu4_2 or block5_conv2.
        layer_weights: of the style layers relu1_1 ... relu5_1, relative to one another.
        scaled: each layer's error is divided by its own magnitude (``error_sums``); else plain mean squares.
        optimizer: lbfgs, adam, or sgd with a decaying rate.
        history: pairs of steps and changes of the gradient that lbfgs remembers, or fewer where memory ends.
        lr: its rate; None: 1 for lbfgs, 0.04 for adam, 0.0015 for sgd. Images span 2.
        steps: at the largest size.
        coarse_steps: at the smallest size; between them the number falls geometrically.
        first_size: longest side of the smallest size, from which sizes grow by sqrt(2); 0: the largest only.
        style_scale: longest side of the style over that of the result.
        ema: decay of the average of iterates; 0: none.
        start: content, or noise.
        replicate: pad the first convolution by replication, which leaves no seam at the border.
        pooling: of the network: max, average or l2.
        precision: arithmetic of the network: auto, fp32 or bf16.
    """

    content_weight: Weight = 0.015
    style_weight: Weight = 1.0
    tv_weight: Weight = 0.5
    content_layer: str = "relu4_2"
    layer_weights: Annotated[tuple[float, float, float, float, float], Range(0)] = (256, 64, 16, 4, 1)
    scaled: bool = True
    optimizer: Literal["lbfgs", "adam", "sgd"] = "lbfgs"
    history: Count = 30
    lr: Annotated[float, Range(0, 1e6, open=True)] | None = None
    steps: Count = 80
    coarse_steps: Count = 130
    first_size: Annotated[int, Range(0)] = 128
    style_scale: Annotated[float, Range(0.05, 20)] = 1.0
    ema: Annotated[float, Range(0, 0.9999)] = 0.0
    start: Literal["content", "noise"] = "content"
    replicate: bool = True
    pooling: Literal["max", "average", "l2"] = "max"
    precision: Literal["auto", "fp32", "bf16"] = "auto"


RECIPES = {
    "fast": Recipe(),
    "plain": Recipe(
        content_weight=0.0015,
        style_weight=0.5,
        tv_weight=0.01,
        layer_weights=(64, 16, 4, 1, 1),
        scaled=False,
        optimizer="sgd",
        steps=300,
        first_size=0,
        replicate=False,
        precision="fp32",
    ),
}


def vgg_features(net: str, recipe: Recipe, device: torch.device, progress: Progress | None = None) -> Features:
    """The activations of a VGG as a recipe has it.

    In bf16 the first convolution stays in fp32: images in bf16 have fewer levels than in 8 bits, too few for the last
    steps, and it takes less than a hundredth of the time.
    """
    bf16 = pick_precision(recipe.precision, device).bf16
    options: dict[str, Any] = {"replicate": "first" if recipe.replicate else "none", "pooling": recipe.pooling}
    features = networks.features(net, device, torch.bfloat16 if bf16 else torch.float32, progress, **options)
    if bf16:
        layers = dict(features.network.named_children())
        layers["normalise"].float()
        layers["conv1_1"].float()
        layers["conv1_2"].register_forward_pre_hook(lambda _, inputs: (inputs[0].to(torch.bfloat16),))
    return features


class _Clamped(Pixels):
    """Pixels that are clamped to [-1, 1] before each evaluation."""

    def forward(self) -> Tensor:
        with torch.no_grad():
            self.pixels.clamp_(-1, 1)
        return self.pixels


@dataclass(frozen=True)
class Grams:
    """Gram matrices by sums over positions.

    Attributes:
        layers: their names.
        regions: weights of positions (1, 1, h, w) by layer, for Gram matrices of each region; {}: all positions.
    """

    layers: Sequence[str]
    regions: Sequence[Mapping[str, Tensor]] = ({},)

    def statistics(self, features: Mapping[str, Tensor], windows: Mapping[str, Window]) -> Statistics:
        sums: Statistics = {}
        for index, region in enumerate(self.regions):
            for name in self.layers:
                weight = region[name][..., *windows[name]] if region else None
                sums[f"{name} {index}"], sums[f"{name} {index} mass"] = gram_sums(features[name], weight)
        return sums

    def matrices(self, sums: Statistics) -> list[dict[str, Tensor]]:
        """Those of each region, by layer."""
        indices = range(len(self.regions))
        return [{k: sums[f"{k} {index}"] / sums[f"{k} {index} mass"] for k in self.layers} for index in indices]


@dataclass(frozen=True)
class StyleLoss:
    """The loss of content and style.

    Attributes:
        recipe: has their weights.
        weights: of the style layers; their sum is 1.
        content: target of the content layer.
        grams: of the image.
        targets: Gram matrices of each region, by layer.
        factors: of the regions.
    """

    recipe: Recipe
    weights: Mapping[str, float]
    content: Tensor
    grams: Grams
    targets: Sequence[Mapping[str, Tensor]]
    factors: Sequence[float]

    @property
    def layers(self) -> Sequence[str]:
        return [*dict.fromkeys([*self.weights, self.recipe.content_layer])]

    def statistics(self, features: Mapping[str, Tensor], windows: Mapping[str, Window]) -> Statistics:
        layer = self.recipe.content_layer
        errors = error_sums(features[layer], self.content[..., *windows[layer]], self.recipe.scaled)
        return self.grams.statistics(features, windows) | {"error": errors[0], "scale": errors[1]}

    def loss(self, statistics: Statistics) -> dict[str, Tensor]:
        losses = [
            factor * weight * _ratio(*error_sums(grams[name], target[name], self.recipe.scaled))
            for grams, target, factor in zip(self.grams.matrices(statistics), self.targets, self.factors, strict=True)
            for name, weight in self.weights.items()
        ]
        content = self.recipe.content_weight * _ratio(statistics["error"], statistics["scale"])
        style = self.recipe.style_weight * torch.stack(losses).sum()
        return {"loss": content + style, "content": content, "style": style}


def _ratio(error: Tensor, scale: Tensor) -> Tensor:
    return error / (scale + 1e-8)


@torch.no_grad()
def objective(
    features: Features,
    content: Tensor,
    styles: Sequence[Tensor],
    recipe: Recipe,
    blend: Sequence[float],
    masks: Sequence[Tensor] = (),
    memory: float = math.inf,
) -> Loss:
    """The loss of an image (1, C, H, W): content, style and total variation.

    Args:
        content: (1, C, H, W).
        styles: (1, C, h, w) each.
        blend: share of each style's Gram matrices in the target; with masks factors on the losses of the regions.
        masks: (1, 1, H, W) in [0, 1], the region of each style; none: all styles everywhere.
        memory: bytes for activations; what takes more is computed tile by tile.
    """
    layers = dict(zip(networks.NETWORKS[features.name].style, recipe.layer_weights, strict=True))
    weights = {name: weight / sum(layers.values()) for name, weight in layers.items()}
    cut = functools.partial(tiling, features, [*dict.fromkeys([*layers, recipe.content_layer])], memory=memory)
    strides = {k: features.layer(k).stride for k in layers} if masks else {}
    tiles, painted = cut(content.shape[2:], more=len(masks) * _weighted(features, strides)), Grams([*layers])
    sums = (total(features, painted, style, cut(style.shape[2:])) for style in styles)
    targets = [painted.matrices(each)[0] for each in sums]
    if not masks:
        blended = [*zip(blend, targets, strict=True)]
        targets = [{k: torch.stack([share * grams[k] for share, grams in blended]).sum(0) for k in layers}]
    regions = [
        {k: F.adaptive_avg_pool2d(mask, (mask.shape[2] // n, mask.shape[3] // n)) for k, n in strides.items()}
        for mask in masks
    ]
    loss = StyleLoss(
        recipe,
        weights,
        activations(features, recipe.content_layer, content, tiles),
        Grams([*layers], regions or ({},)),
        targets,
        blend if masks else [1.0],
    )

    def evaluated(image: Tensor, batch: Batch) -> dict[str, Tensor]:
        parts = evaluate(features, loss, image, tiles)
        tv = recipe.tv_weight * total_variation(image).mean()
        return parts | {"loss": parts["loss"] + tv, "tv": tv}

    return evaluated


def _weighted(features: Features, strides: Mapping[str, int]) -> float:
    """Bytes per pixel of the activations of layers in fp32, as a region keeps them with its weights."""
    return 4 * sum(features.layer(name).channels / stride**2 for name, stride in strides.items())


def sizes(shape: tuple[int, int], first: int) -> list[tuple[int, int]]:
    """(H, W) of each level, coarse to fine by sqrt(2): longest sides from ``first``, or only the last for 0."""
    longest, shapes = max(shape), [shape]
    while first and (side := longest / 2 ** (len(shapes) / 2)) >= first - 0.5:
        coarser = (round(shape[0] * side / longest), round(shape[1] * side / longest))
        if min(coarser) < SMALLEST:
            break
        shapes.append(coarser)
    return shapes[::-1]


def fitted(image: Tensor, longest: float) -> Tensor:
    """At most ``longest`` pixels on the longer side, and at least ``SMALLEST`` on the shorter."""
    shape = image.shape[2:]
    scale = max(min(1.0, longest / max(shape)), SMALLEST / min(shape))
    return image if scale == 1 else resized(image, (round(shape[0] * scale), round(shape[1] * scale)))


def _free(memory: float, image: float) -> float:
    """Bytes for activations and the history of L-BFGS, beside all that an image of some bytes takes."""
    return memory - _PROCESS - _COPIES * image


def _history(recipe: Recipe, memory: float, image: float) -> int:
    """Pairs of L-BFGS: the recipe's, or those that half of the free memory holds."""
    return max(1, int(min(recipe.history, _free(memory, image) / (4 * image))))


def _optimizer(recipe: Recipe, memory: float, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    rates = {"lbfgs": 1.0, "adam": 0.04, "sgd": 0.0015}
    lr = rates[recipe.optimizer] if recipe.lr is None else recipe.lr
    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters, lr, betas=(0.9, 0.99), fused=True)
    if recipe.optimizer == "sgd":  # the gradient of a mean over pixels, times their number
        return torch.optim.SGD(parameters, lr * sum(p.numel() for p in parameters))
    return LBFGS(parameters, lr, _history(recipe, memory, 4 * sum(p.numel() for p in parameters)))


def _decay(step: int, progress: float) -> float:
    return 0.1**progress


def _carry(before: torch.optim.Optimizer, now: torch.optim.Optimizer) -> None:
    """The optimiser's state, enlarged to the next size: Adam's moments, or the steps and changes of L-BFGS."""
    old, new = (optimizer.param_groups[0]["params"][0] for optimizer in (before, now))

    def enlarged(value: Tensor) -> Tensor:
        return resized(value.view_as(old), new.shape[2:]).view(new.shape if value.ndim > 1 else -1)

    state = before.state[old]
    if "moves" in state:  # the gradient of a mean over pixels is smaller where there are more
        ratio = old.numel() / new.numel()
        last = slice(-now.param_groups[0]["history"], None)
        now.state[new]["moves"] = [enlarged(move) for move in state["moves"][last]]
        now.state[new]["changes"] = [enlarged(change).mul_(ratio) for change in state["changes"][last]]
    elif "exp_avg" in state:
        moments = {"exp_avg": enlarged(state["exp_avg"]), "exp_avg_sq": enlarged(state["exp_avg_sq"]).clamp_(min=0)}
        now.state[new] = {"step": state["step"].clone(), **moments}


def canvas_of(
    features: Features,
    content: Tensor,
    styles: Sequence[Tensor],
    recipe: Recipe,
    blend: Sequence[float],
    masks: Sequence[Tensor] = (),
    seed: int = 0,
    memory: float = math.inf,
) -> Canvas:
    """The canvas of a style transfer, one level per size; arguments as for ``objective``.

    Args:
        memory: of all of it in bytes; what takes more is computed tile by tile, with equal results.
    """
    shapes = sizes((content.shape[2], content.shape[3]), recipe.first_size)
    memory -= sum(4 * style.numel() for style in styles) + sum(_PLANES * 4 * mask.numel() for mask in masks)

    @functools.lru_cache(maxsize=1)  # the targets of one level
    def loss_of(shape: tuple[int, int]) -> Loss:
        paintings = [fitted(style, max(shape) * recipe.style_scale) for style in styles]
        regions = [F.adaptive_avg_pool2d(mask, shape) for mask in masks]
        image = 4 * content.shape[1] * shape[0] * shape[1]
        free = _free(memory, image) - 2 * image * _history(recipe, memory, image)
        return objective(features, resized(content, shape), paintings, recipe, blend, regions, free)

    def loss(image: Tensor, batch: Batch) -> dict[str, Tensor]:
        return loss_of((image.shape[2], image.shape[3]))(image, batch)

    levels = []
    for index, shape in enumerate(shapes):
        image = _Clamped(shape, content.shape[1])
        part = index / max(1, len(shapes) - 1)
        steps = round(recipe.coarse_steps ** (1 - part) * recipe.steps**part) if len(shapes) > 1 else recipe.steps
        if index == 0:
            start = Noise.of_seeds([seed], content.device)(*image.pixels.shape[1:]) / 4
            image.set(resized(content, shape) if recipe.start == "content" else start)
        levels.append(Level(image, loss, steps))
    return Canvas(
        levels,
        functools.partial(_optimizer, recipe, memory),
        schedule=None if recipe.optimizer == "lbfgs" else _decay,
        carry=_carry,
    )
