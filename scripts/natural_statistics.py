"""Second-order statistics of photographs, the constants of src/reverie/dreaming/parametrisations.py.

Of the data "photos", at 128 pixels. Prints the principal axes of the covariance of colours within a photograph, each
times its standard deviation (columns, the largest first), and the power of the frequency with which amplitudes along
them fall, fitted between 1/32 and 1/4 cycles per pixel.
"""

from __future__ import annotations

import numpy as np
import torch

import reverie as rv
from reverie.dreaming.parametrisations import Statistics, frequencies

SIDE = 128

stored = rv.open_data("photos", size=SIDE).train["x"]
images = torch.from_numpy(np.array(stored)).permute(0, 3, 1, 2).float() / 127.5 - 1
images -= images.mean((2, 3), keepdim=True)
statistics = Statistics.of(images)
print(len(images), "crops; colours", statistics.colours.tolist())
window = torch.hann_window(SIDE, periodic=False)
components = torch.einsum("dc,bchw->bdhw", torch.linalg.inv(statistics.colours), images)
amplitudes = torch.fft.rfft2(components * window * window[:, None]).abs().square().mean(0).sqrt()
f = frequencies((SIDE, SIDE))
band = (f >= 1 / 32) & (f <= 1 / 4)
for name, amplitude in zip(("first", "second", "third"), amplitudes, strict=True):
    slope, _ = np.polyfit(f[band].log().numpy(), amplitude[band].log().numpy(), 1)
    print(name, f"axis: {-slope:.2f}")
