"""Style transfer as its public recipes do it, written plainly: fp32, NCHW, VGG computed to its last layer.

``gatys``: one size, L-BFGS with up to 20 evaluations per step, from the content image (the PyTorch tutorial's settings,
with the layers of Gatys et al., arXiv:1508.06576). ``multiscale``: the recipe of crowsonkb/style-transfer-pytorch.
Images are (1, 3, H, W) in [0, 1] here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

STYLE = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
CONTENT = "relu4_2"


class VGG:
    """Every activation of VGG-16's convolutions.

    Args:
        state: {"conv1_1.weight": ...}.
        replicate: pad the first convolution by replication.
        last: the deepest layer that is computed.
    """

    def __init__(self, state: Mapping[str, Tensor], replicate: bool = False, last: str = "relu5_3"):
        names = sorted(name.removesuffix(".weight") for name in state if name.endswith(".weight"))
        self.names = [name for name in names if name.replace("conv", "relu") <= last]
        self.state, self.replicate = {name: value.float().contiguous() for name, value in state.items()}, replicate
        self.mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
        self.std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        x, outputs = (image - self.mean) / self.std, {}
        for name in self.names:
            if name.endswith("_1") and name != "conv1_1":
                x = F.max_pool2d(x, 2)
            padding = 1
            if self.replicate and name == "conv1_1":
                x, padding = F.pad(x, (1, 1, 1, 1), "replicate"), 0
            x = F.relu(F.conv2d(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], padding=padding))
            outputs[name.replace("conv", "relu")] = x
        return outputs


def gram(x: Tensor) -> Tensor:
    """Products of channels, means over positions: (C, C)."""
    flat = x.flatten(2)[0]
    return flat @ flat.T / flat.shape[1]


# One size, L-BFGS


class GatysLoss:
    """Mean squares of content and Gram matrices; those are divided by channels and positions.

    Args:
        content, style: images.
    """

    def __init__(self, state: Mapping[str, Tensor], content: Tensor, style: Tensor, style_weight: float = 1e6):
        self.vgg, self.style_weight = VGG(state), style_weight
        with torch.no_grad():
            self.content = self.vgg(content)[CONTENT]
            self.grams = {name: gram(x) / x.shape[1] for name, x in self.vgg(style).items() if name in STYLE}

    def __call__(self, image: Tensor) -> Tensor:
        activations = self.vgg(image)
        losses = [F.mse_loss(gram(activations[name]) / len(g), g) for name, g in self.grams.items()]
        return F.mse_loss(activations[CONTENT], self.content) + self.style_weight * torch.stack(losses).sum()


def gatys(state: Mapping[str, Tensor], content: Tensor, style: Tensor, evaluations: int = 300) -> Tensor:
    """The image after so many evaluations of the loss."""
    loss_of, image = GatysLoss(state, content, style), content.clone().requires_grad_()
    optimizer, count = torch.optim.LBFGS([image]), 0
    while count < evaluations:

        def closure() -> Tensor:
            nonlocal count
            with torch.no_grad():
                image.clamp_(0, 1)
            optimizer.zero_grad()
            loss = loss_of(image)
            loss.backward()
            count += 1
            return loss

        optimizer.step(closure)  # type: ignore[arg-type]
    return image.detach().clamp(0, 1)


# Several sizes, Adam


def scaled(x: Tensor, target: Tensor) -> Tensor:
    """Squared error over absolute error."""
    difference = x - target
    return difference.square().sum() / (difference.abs().sum() + 1e-8)


class ScaledLoss:
    """Content, Gram matrices and total variation at one size, each error scaled by its magnitude."""

    def __init__(self, state: Mapping[str, Tensor], content: Tensor, style: Tensor):
        self.vgg = VGG(state, replicate=True, last="relu5_1")
        weights = (256, 64, 16, 4, 1)
        self.weights = {name: weight / sum(weights) for name, weight in zip(STYLE, weights, strict=True)}
        with torch.no_grad():
            self.content = self.vgg(content)[CONTENT]
            self.grams = {name: gram(x) for name, x in self.vgg(style).items() if name in STYLE}

    def __call__(self, image: Tensor) -> Tensor:
        activations = self.vgg(image)
        loss = 0.015 * scaled(activations[CONTENT], self.content)
        for name, weight in self.weights.items():
            loss = loss + weight * scaled(gram(activations[name]), self.grams[name])
        padded = F.pad(image, (0, 1, 0, 1), "replicate")
        across = padded[..., :-1, 1:] - padded[..., :-1, :-1]
        down = padded[..., 1:, :-1] - padded[..., :-1, :-1]
        return loss + 2 * (across.square() + down.square()).mean()


def fitted(image: Tensor, longest: int, enlarge: bool = False) -> Tensor:
    """Resized to a longest side, antialiased."""
    height, width = image.shape[2:]
    if not enlarge and max(height, width) <= longest:
        return image
    shape = (round(height * longest / max(height, width)), round(width * longest / max(height, width)))
    return F.interpolate(image, shape, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def multiscale(
    state: Mapping[str, Tensor],
    content: Tensor,
    style: Tensor,
    size: int = 512,
    first: int = 128,
    first_steps: int = 1000,
    steps: int = 500,
) -> Tensor:
    """The averaged image after all sizes, from ``first`` by sqrt(2)."""
    sides = sorted({round(size / 2 ** (i / 2)) for i in range(20) if round(size / 2 ** (i / 2)) >= first})
    average, moments = fitted(content, sides[0], True), {}
    for side in sides:
        photo = fitted(content, side, True)
        shape = photo.shape[2:]
        image = F.interpolate(average, shape, mode="bicubic", align_corners=False).clamp(0, 1).requires_grad_()
        loss_of, decay = ScaledLoss(state, photo, fitted(style, side)), 1.0
        optimizer = torch.optim.Adam([image], lr=0.02)
        if moments:
            optimizer.state[image] = resized_moments(moments, shape)
        total = torch.zeros_like(image)
        for _ in range(first_steps if side == sides[0] else steps):
            optimizer.zero_grad()
            loss_of(image).backward()
            optimizer.step()
            with torch.no_grad():
                image.clamp_(0, 1)
                total, decay = 0.99 * total + 0.01 * image, 0.99 * decay
        average, moments = total.detach() / (1 - decay), optimizer.state[image]
    return average.clamp(0, 1)


def resized_moments(moments: Mapping[str, Any], shape: Any) -> dict[str, Any]:
    """Adam's state for another size."""
    first = F.interpolate(moments["exp_avg"], shape, mode="bicubic", align_corners=False)
    second = F.interpolate(moments["exp_avg_sq"], shape, mode="bilinear", align_corners=False).relu()
    return {"step": moments["step"].clone(), "exp_avg": first, "exp_avg_sq": second}
