"""DeepDream's step as a plain script: float32 in NCHW, the network to its end, gradients of its weights, too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels and convolutions


def plain_vgg16(weights: Mapping[str, Tensor]) -> nn.Sequential:
    """VGG-16's convolutions with weights by name: "conv1_1.weight", "conv1_1.bias" ..."""
    layers: list[nn.Module] = []
    inputs = 3
    for block, (channels, count) in enumerate(BLOCKS, 1):
        for index in range(1, count + 1):
            conv = nn.Conv2d(inputs, channels, 3, padding=1)
            conv.weight.data = weights[f"conv{block}_{index}.weight"].clone().contiguous()
            conv.bias.data = weights[f"conv{block}_{index}.bias"].clone()
            layers += [conv, nn.ReLU()]
            inputs = channels
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers).eval()


def plain_dream(network: nn.Sequential, image: Tensor, layers: list[int], lr: float = 0.012) -> Iterator[Tensor]:
    """The image (1, 3, H, W) after each step of gradient ascent on the mean norm of some modules' outputs."""
    outputs: dict[int, Tensor] = {}
    for index in layers:
        network[index].register_forward_hook(
            lambda module, inputs, output, index=index: outputs.update({index: output})
        )
    mean = torch.tensor([0.485, 0.456, 0.406], device=image.device).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225], device=image.device).view(3, 1, 1)
    image = image.clone().requires_grad_()
    while True:
        network((image / 2 + 0.5 - mean) / std)
        loss = torch.stack([outputs[index].square().mean().sqrt() for index in layers]).mean()
        loss.backward()
        with torch.no_grad():
            image += lr * image.grad / (image.grad.abs().mean() + 1e-8)
            image.clamp_(-1, 1)
        image.grad = None
        network.zero_grad()
        yield image.detach()
