"""The figures of docs/topics/style.md: a photograph in six styles, regions, kept colours, a blend.

The photograph is neuschwanstein-castle of `reverie data photos`, the paintings are in docs/pictures/styles; images that
are there already (--work) are not made again. An image takes about a minute at 512 pixels on two free cores.

Run:  python scripts/style_gallery.py [--size 512] [--steps 80] [--coarse 250] [--work FOLDER]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import reverie as rv
from reverie.data import open_data, photos

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
SIX = ("starry-night", "wave", "scream", "composition-vii", "udnie", "tableau-2")
LARGEST = 195_000  # bytes of a figure


def sky_of(photo: Image.Image) -> Image.Image:
    """White where the upper half is blue and bright, or a cloud."""
    pixels = np.asarray(photo.convert("RGB")).astype(int)
    height = np.arange(len(pixels))[:, None] / len(pixels)
    blue = (pixels[..., 2] > pixels[..., 0] + 5) & (pixels.sum(2) > 330)
    cloud = (pixels.min(2) > 200) & (height < 0.3)
    return Image.fromarray(((blue | cloud) & (height < 0.52)).astype(np.uint8) * 255)


def beside(files: list[Path], columns: int, path: Path) -> None:
    """One sheet with narrow gaps, as small as a figure must be."""
    images = [Image.open(file).convert("RGB") for file in files]
    width, height = (max(sides) for sides in zip(*(image.size for image in images), strict=True))
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (width + 6) - 6, rows * (height + 6) - 6), "white")
    for index, image in enumerate(images):
        image = image.resize((width, height), Image.Resampling.LANCZOS)
        sheet.paste(image, (index % columns * (width + 6), index // columns * (height + 6)))
    for quality in range(90, 40, -5):
        sheet.save(path, quality=quality, optimize=True)
        if path.stat().st_size <= LARGEST:
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--coarse", type=int)
    parser.add_argument("--work", type=Path, default=Path("build/style-gallery"), help="folder of the single images")
    flags = parser.parse_args()
    flags.work.mkdir(parents=True, exist_ok=True)
    source = photos.folder() / "neuschwanstein-castle.webp"
    if not source.exists():
        open_data("photos")
    photo = Image.open(source).convert("RGB")
    photo.thumbnail((flags.size, flags.size), Image.Resampling.LANCZOS)
    photo.save(flags.work / "photo.png")
    jobs: dict[str, tuple[list[str], dict[str, Any]]] = {name: ([name], {}) for name in SIX}
    jobs["region"] = (["starry-night", "wheat-field"], {"mask": np.asarray(sky_of(photo))})
    jobs["keep"] = (["wave"], {"keep_color": True})
    jobs["blend"] = (["wave", "composition-vii"], {"blend": [0.6, 0.4]})
    for name, (styles, options) in jobs.items():
        path = flags.work / f"{name}.png"
        if not path.exists():
            paintings = [PICTURES / "styles" / f"{style}.jpg" for style in styles]
            steps = {"steps": flags.steps, "coarse_steps": flags.coarse}
            rv.stylize(photo, paintings, size=flags.size, **steps, **options).save(path)
            print(path, flush=True)
    beside([flags.work / f"{name}.png" for name in SIX], 3, PICTURES / "style-six.jpg")
    others = ("photo", "region", "keep", "blend")
    beside([flags.work / f"{name}.png" for name in others], 2, PICTURES / "style-control.jpg")


if __name__ == "__main__":
    main()
