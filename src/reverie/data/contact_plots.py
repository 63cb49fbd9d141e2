"""The plots of a contact sheet: classes, sizes and aspects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from reverie.core.terminal import printable

CLASSES = 30  # bars


def classes(axis: Any, counts: Mapping[str, tuple[int, int]]) -> None:
    """Images of each class, a bar each."""
    first = list(counts.items())[:CLASSES]
    names = [printable(name)[:20] for name, _ in first]
    train, held_out = (np.array([both[side] for _, both in first]) for side in (0, 1))
    axis.bar(range(len(first)), train, label="to train on")
    axis.bar(range(len(first)), held_out, bottom=train, label="held out")
    axis.set_xticks(range(len(first)), names, rotation=90 if len(first) > 6 else 0, fontsize=7)
    more = f" (first {CLASSES} of {len(counts):,})" if len(counts) > CLASSES else ""
    axis.set_title(f"images of each class{more}", fontsize=9)
    axis.set_ylim(top=1.2 * (train + held_out).max())  # room for the legend
    axis.legend(frameon=False, fontsize=7, loc="upper right", ncols=2)


def extents(axis: Any, sizes: Mapping[tuple[int, int], int]) -> None:
    """Width and height of the files' images; a larger dot is more images."""
    width, height = np.array(list(sizes)).T
    number = np.array(list(sizes.values()))
    axis.scatter(width, height, s=8 + 120 * number / number.max(), alpha=0.5)
    axis.set_xlabel("width, pixels", fontsize=8)
    axis.set_ylabel("height, pixels", fontsize=8)
    axis.set_xscale("log")
    axis.set_yscale("log")
    for ticks, ends in ((axis.set_xticks, width), (axis.set_yticks, height)):
        powers = 2 ** np.arange(int(np.log2(ends.min())), int(np.ceil(np.log2(ends.max()))) + 1)
        ticks(powers, [f"{power:,}" for power in powers], fontsize=7)
    axis.minorticks_off()
    axis.set_title("sizes of the files' images", fontsize=9)


def aspects(axis: Any, sizes: Mapping[tuple[int, int], int]) -> None:
    """Width to height of the files' images."""
    ratios = np.log2([width / height for width, height in sizes])
    axis.hist(ratios, bins=np.linspace(-3, 3, 25), weights=list(sizes.values()))
    axis.set_xticks([-3, -2, -1, 0, 1, 2, 3], ["1:8", "1:4", "1:2", "1:1", "2:1", "4:1", "8:1"], fontsize=7)
    axis.set_title("width to height", fontsize=9)
