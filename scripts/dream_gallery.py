"""The figures of docs/topics/dreams.md and of VGG-16's filters in docs/topics/filters.md.

The photographs are those of `reverie data photos`. A dream takes about ten seconds on two free cores, the filters two
minutes.

Run:  python scripts/dream_gallery.py [depth] [examples] [filters]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import reverie as rv
from reverie.data import open_data, photos

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
WIDTH, GAP, LINE = 400, 4, 22  # pixels of an image, between two, and of a label
LARGEST = 195_000  # bytes of a figure


def photo(name: str) -> Path:
    """A photograph's file; fetched once."""
    path = photos.folder() / f"{name}.webp"
    if not path.exists():
        open_data("photos")
    return path


def sheet(cells: Sequence[tuple[str, Image.Image]], columns: int) -> Image.Image:
    """Images of equal width, each above its label."""
    rows = [cells[low : low + columns] for low in range(0, len(cells), columns)]
    heights = [max(image.height for _, image in row) + LINE for row in rows]
    canvas = Image.new("RGB", (columns * (cells[0][1].width + GAP) - GAP, sum(heights)), "white")
    draw, font, top = ImageDraw.Draw(canvas), ImageFont.load_default(14), 0
    for row, height in zip(rows, heights, strict=True):
        for column, (label, image) in enumerate(row):
            left = column * (image.width + GAP)
            canvas.paste(image.convert("RGB"), (left, top))
            draw.text((left + 2, top + image.height + 3), label, "black", font)
        top += height
    return canvas


def depth() -> Image.Image:
    """One photograph, ever deeper layers."""
    source = photo("cat")
    cells = [("photograph", Image.open(source).convert("RGB").resize((WIDTH, WIDTH * 3 // 4)))]
    for net, layer in (
        ("inception", "Conv2d_4a_3x3"),
        ("inception", "mixed0"),
        ("inception", "mixed3"),
        ("inception", "mixed3,mixed4"),
        ("resnet50", ""),
    ):
        image = rv.dream(source, net, layer or None, size=WIDTH)
        cells.append((f"{net} {layer or ','.join(image.origin['layers'])}", image.pil[0]))
    return sheet(cells, 3)


def examples() -> Image.Image:
    """Landscapes and buildings, by two networks, guided, and in two loops."""
    dreams = {
        "inception": rv.dream(photo("canyon-de-chelly"), size=WIDTH),
        "resnet50": rv.dream(photo("mont-saint-michel"), "resnet50", size=WIDTH),
        "inception, guided by bee": rv.dream(photo("neuschwanstein-castle"), size=WIDTH, guide=photo("bee")),
        "resnet50, two loops": rv.dream(photo("great-wall-of-china"), "resnet50", size=WIDTH, loops=2),
    }
    return sheet([(label, images.pil[0]) for label, images in dreams.items()], 2)


def filters() -> Image.Image:
    """Six filters of each of four layers of VGG-16."""
    layers = {"relu1_2": 64, "relu3_3": 256, "relu4_1": 512, "relu5_3": 512}
    cells = []
    for layer, count in layers.items():
        numbers = [count * index // 6 for index in range(6)]
        images = rv.filters("vgg16", layer, numbers, size=128, steps=96)
        cells += [(f"{layer} {number}", image) for number, image in zip(numbers, images.pil, strict=True)]
    return sheet(cells, 6)


FIGURES: dict[str, tuple[str, Callable[[], Image.Image]]] = {
    "depth": ("dream-depth.webp", depth),
    "examples": ("dream-examples.webp", examples),
    "filters": ("filters-vgg16.webp", filters),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(FIGURES)}; all by default")
    flags = parser.parse_args()
    for name in flags.names or FIGURES:
        path, figure = PICTURES / FIGURES[name][0], FIGURES[name][1]()
        for quality in range(90, 40, -5):
            figure.save(path, quality=quality, method=6)
            if path.stat().st_size <= LARGEST:
                break
        print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
