"""A small encoder of 32-pixel images that ships with the package, so that scores need no download.

``scripts/make_small_encoder.py`` trains it on the bundled images to classify their content and their degradation
(blur, noise, tint ...), so that its features depend on content and quality. Scores that use it have its name.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from torch import Tensor, nn

from reverie.nets.convolutional import ResidualBlock

DIMENSION = 128
SIZE = 32  # side in pixels
WIDTHS = (32, 64, 96, 128)  # channels at 32, 16, 8 and 4 pixels


class SmallEncoder(nn.Module):
    """(N, 3, 32, 32) in [-1, 1] to features (N, 128), the mean over the last maps."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, WIDTHS[0], 3, padding=1), nn.ReLU()]
        for narrow, wide in itertools.pairwise(WIDTHS):
            layers += [nn.Conv2d(narrow, wide, 3, stride=2, padding=1), ResidualBlock(wide)]
        self.layers = nn.Sequential(*layers, nn.ReLU())

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image).mean((2, 3))


def small_encoder(state: Mapping[str, Tensor]) -> SmallEncoder:
    """The encoder with its weights as they are stored."""
    encoder = SmallEncoder()
    names = {name: name.replace(".first.", ".conv1.").replace(".second.", ".conv2.") for name in state}
    encoder.load_state_dict({names[name]: value for name, value in state.items()})
    return encoder
