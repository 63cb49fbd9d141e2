"""Which files of a source are masks of others, by their folders and names, and by their values."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

from reverie.core.errors import UsageError, argument
from reverie.core.terminal import count, printable
from reverie.data.finder import Finder, composed
from reverie.data.items import Item
from reverie.data.naming import Columns
from reverie.data.tree import Tree, stem, suffix
from reverie.data.types import Problem
from reverie.media import decode
from reverie.media.masks import NO_MASK, read_values

IMAGES = ("images", "image", "imgs", "img", "jpegimages", "photos", "target", "output", "b")  # preferred beside masks/
FOLDERS = ("segmentationclass", "trimaps")  # of Pascal VOC and Oxford-IIIT Pet
LABELS = ("labels", "annotations", "annot", "segmentation", "segmentations", "semantic", "groundtruth", "ground_truth")
BESIDE = (*IMAGES, "leftimg8bit", "rgb", "image_2")  # of Cityscapes and KITTI, too
FORMS = ("labelids", "labels")  # of several files of one image, such as in gtFine: those before colours and instances
INSTANCES = "segmentationobject"  # of Pascal VOC: the same regions, numbered by instance
ENOUGH = 0.9  # share of masks with an image, from which on nobody is asked
LOOKED_AT = 32  # masks whose values are looked at
COLUMNS = ("mask", "masks", "mask_file_name", "mask_path")  # of tables
OF_IMAGES = ("mask", "masks", "segmentation_mask")  # columns of encoded images
_HINT = re.compile(r"mask|seg|trimaps|label|annot|gt|ground|semantic", re.IGNORECASE)
_FOLDER = re.compile(r"(?:(.+)[-_ ])?masks?|(.+?)[-_ ]?annot|(.+)[-_ ]labels|.*mask[-_ ]anno", re.IGNORECASE)
_TRUTH = re.compile(r"gt(?:fine|coarse)?", re.IGNORECASE)  # of Cityscapes
_PART = re.compile(r"(?:.*/)?0*(\d+)_[a-z_]+", re.IGNORECASE | re.DOTALL)  # 00012_hair of 12
_END = re.compile(r"(.*[^-_. /])[-_. ]+(?:masks?|seg|segmentation)(?:[-_. ]?\d+)?", re.IGNORECASE | re.DOTALL)
_IMAGE_END = re.compile(r"(.*[^-_. /])[-_.](?:image|img)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Masks:
    """The masks of a source.

    Attributes:
        answer: "yes", "no", or "ask": only the user can tell.
        why: in words; "" where nothing looks like a mask.
        of: image -> its masks.
        unused: other files that belong to masks -> why they are skipped.
        where: the folders or ends of names, for the report.
    """

    answer: str = "no"
    why: str = ""
    of: dict[str, tuple[str, ...]] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)
    where: str = ""

    @property
    def files(self) -> set[str]:
        return {*self.unused, *(mask for masks in self.of.values() for mask in masks)}

    @property
    def problems(self) -> list[Problem]:
        return [Problem(printable(name), "unpaired", f"skipped: {why}") for name, why in self.unused.items()]

    @property
    def summary(self) -> str:
        """For the report's first line."""
        return f"; masks of {count(len(self.of), 'image')} from {self.where}" if self.of else ""

    def without(self, tree: Tree) -> Tree:
        """The tree of all other files."""
        gone = self.files
        return replace(tree, files={name: file for name, file in tree.files.items() if name not in gone})

    def added(self, items: dict[str, Item], tree: Tree) -> dict[str, Item]:
        """The items with their masks."""
        return {
            name: replace(item, masks=tuple(tree.files[mask] for mask in self.of[name])) if name in self.of else item
            for name, item in items.items()
        }


def masks_of(tree: Tree, option: str | None, problems: list[Problem]) -> Masks:
    """The masks that are read of a tree.

    Args:
        option: "yes": all that have an image, without looking at their values; "no": none; None: recognised.
        problems: masks that are skipped, and images that may be masks.

    Raises:
        UsageError: only the user can tell whether they are masks.
    """
    if option == "no":
        return Masks()
    masks = find_masks(tree, trusted=option == "yes")
    if masks.answer == "ask":
        raise UsageError(f"{tree.name}: {masks.why}.")
    if masks.answer == "no" and masks.why:
        problems.append(Problem("*", "layout", f"used as images, not as masks: {masks.why}"))
        return Masks()
    problems += masks.problems
    return masks


def columns_of_masks(images: Sequence[str], option: str | None, named: Columns) -> list[str]:
    """Of the columns of encoded images, those that are masks, the first of which is read.

    Args:
        option: "yes": where none is called so, all but the first or the ``named`` image; "no": none.
    """
    if named.mask or option == "no" or len(images) < 2:
        return [named.mask] * (named.mask in images)
    sure = [name for name in images if name.lower() in OF_IMAGES and name != named.image]
    return sure or [name for name in images if option == "yes" and name != (named.image or images[0])]


def add_table(
    masks: Masks, rows: Mapping[str, Mapping[str, Any]], tree: Tree, problems: list[Problem], named: str = ""
) -> Masks:
    """The masks, and those that the rows of images name: relative to the image or to the source.

    Appends problems for those that do not exist, and, of a column that the user did not name, for values without an
    image's suffix, such as 0 and 1, and for masks that are images of the table.

    Args:
        named: the column, by the user.
    """
    of: dict[str, tuple[str, ...]] = {}
    find, lost, images, plain = Finder(tree.files), list[str](), list[str](), dict[str, str]()
    for image, row in rows.items():
        column = named or next((name for name in row if name.strip().lower() in COLUMNS), None)
        value = row.get(column) if column else None
        for name in value if isinstance(value, list) else [value]:
            if not isinstance(name, str) or not name:
                continue
            if column != named and suffix(name) not in decode.SUFFIXES:
                plain.setdefault(str(column), name)
                continue
            path = find(PurePosixPath(image).parent, name) or find(PurePosixPath(tree.root), name)
            if path is None and suffix(name) in decode.SUFFIXES:
                lost.append(name)
            if column != named and path in rows:
                images.append(name)
            elif path not in (None, image):
                of[image] = (*of.get(image, ()), path)
    for names, why in ((lost, "do not exist"), (images, "are images of the table themselves")):
        if names:
            some = f"{len(names):,} that a table names {why}, the first: {printable(names[0])}"
            problems.append(Problem("*", NO_MASK, f"used, without their masks: {some}"))
    for column, name in plain.items():
        action = f"used as no mask: its values, such as {name!r:.40}, are no files' names with an image's ending; "
        action += f"{argument('columns', f'mask={column}')} takes them as names of masks"
        problems.append(Problem(printable(column), "columns", action))
    if not of:
        return masks
    where = ", ".join(filter(None, (masks.where, "a table")))
    return replace(masks, answer="yes", of=masks.of | of, where=where)


def check_masked(items: Sequence[Item], source: str, expected: bool) -> bool:
    """Whether there are masks. Raises UsageError if there are none although some are expected."""
    masked = any(item.masks for item in items)
    if expected and not masked:
        names = "in a folder masks/ beside images/, and as KEY_mask.png or KEY.mask.png beside KEY.jpg"
        raise UsageError(f"{source} has no masks; they are recognised {names}.")
    return masked


def find_masks(tree: Tree, trusted: bool = False) -> Masks:
    """The masks in a tree.

    Args:
        trusted: the user says that there are masks: neither their share nor their values matter.
    """
    pairs, orphans, places = dict[str, str](), dict[str, str](), set[str]()
    if not any(map(_HINT.search, tree.images)):
        return Masks()
    spots = {name: spot for name in tree.images if (spot := _spot(name))}
    index = _index(tree.images, spots)
    groups: dict[tuple[str, str], dict[str, str | None]] = {}
    for name, spot in spots.items():
        groups.setdefault((spot.prefix, spot.folder), {})[name] = index(spot)
    by_stem = {_stem(name): name for name in reversed(tree.images) if name not in spots}
    by_stem = {ends[1]: name for stem, name in by_stem.items() if (ends := _IMAGE_END.fullmatch(stem))} | by_stem
    find = Finder(list(by_stem.values()))
    for name in tree.images:
        if name not in spots and (ends := _END.fullmatch(_stem(name))):
            path = PurePosixPath(ends[1])
            groups.setdefault(("", ""), {})[name] = by_stem.get(ends[1]) or find(path.parent, path.name)
    for (prefix, folder), images in groups.items():
        if any(images.values()):
            pairs |= {name: image for name, image in images.items() if image}
            orphans |= {name: "a mask without an image of its name" for name, image in images.items() if not image}
            places.add(f"{prefix}{folder}/" if folder else f"names such as {PurePosixPath(min(images)).name}")
    if not pairs:
        return Masks()
    where = _some(sorted(places))
    share = len(pairs) / (len(pairs) + len(orphans))
    of: dict[str, tuple[str, ...]] = {}
    for mask, image in pairs.items():
        of[image] = (*of.get(image, ()), mask)
    instances = [name for name in tree.images if INSTANCES in name.lower().split("/")[:-1]]
    unused = orphans | dict.fromkeys(instances, "masks of instances; those of classes are used")
    for image, masks in of.items():
        kept = next((chosen for form in FORMS if (chosen := _in_form(masks, form))), masks)
        unused |= dict.fromkeys({*masks} - {*kept}, "another form of a mask; that by numbers is used")
        of[image] = kept
    why = f"{len(pairs):,} of {len(pairs) + len(orphans):,} files of {where} have the name of an image"
    result = Masks("yes", f"{why}, and the values of masks", of, unused, where)
    if trusted:
        return result
    near = {mask: _is_near(image, spots.get(mask)) for mask, image in sorted(pairs.items()) if mask not in unused}
    flat = _share_of_flat(tree, near)
    if flat < ENOUGH:
        seem = f"the files of {where} have names of images, but {1 - flat:.0%} of them the values of photographs"
        return Masks("no", f"{seem}; {argument('masks', 'yes')} reads them as masks")
    if share < ENOUGH:
        choices = f"{argument('masks', 'yes')} takes these masks, {argument('masks', 'no')} reads all files as images"
        return Masks("ask", f"{why}: {choices}", of, unused, where)
    return result


def _in_form(masks: Sequence[str], form: str) -> tuple[str, ...]:
    """Those of several masks of an image whose names alone end so."""
    return tuple(name for name in masks if len(masks) > 1 and stem(name).lower().endswith(f"_{form}"))


@dataclass(frozen=True)
class Spot:
    """Of a file in a folder of masks.

    Attributes:
        prefix: the folder above, with "/".
        folder: of the masks, below the prefix.
        key: path below the folder, without its ending.
        beside: names, in lower case, of which the folder with the images is; empty: any name.
    """

    prefix: str
    folder: str
    key: str
    beside: tuple[str, ...] = ()


def _spot(name: str) -> Spot | None:
    folder, _, file = name.rpartition("/")
    spot = _folder_of_masks(folder)
    return spot and replace(spot, key=_stem(spot.key + file))


@lru_cache(maxsize=1024)
def _folder_of_masks(path: str) -> Spot | None:
    """The spot of a folder's files, its key without their names."""
    parts = path.split("/")
    for i, part in enumerate(parts):
        lower = part.lower()
        match = _FOLDER.fullmatch(part)
        is_truth = lower in LABELS or bool(_TRUTH.fullmatch(part))
        last = i + 1
        if lower in LABELS and i + 1 < len(parts) and (parts[i + 1].lower() in FOLDERS or _is_masks(parts[i + 1])):
            last, match, lower = i + 2, None, parts[i + 1].lower()
        elif not match and lower not in FOLDERS and not is_truth:
            continue
        beside: tuple[str, ...] = BESIDE if is_truth and last == i + 1 else ()
        if match and match.lastindex:
            stem = match[match.lastindex].lower()
            beside = (stem, *(f"{stem}{mark}{word}" for word in IMAGES[:4] for mark in "_-"))
        prefix, folder = _above("/".join(parts[:i]))[-1], "/".join(parts[i:last])
        return Spot(prefix, folder, "".join(f"{part}/" for part in parts[last:]), beside)
    return None


def _is_masks(folder: str) -> bool:
    return folder.lower() in ("mask", "masks")


def _index(images: Sequence[str], spots: dict[str, Spot]) -> Callable[[Spot], str | None]:
    """A function that says which image, not itself in a folder of masks, has the key of a mask."""
    prefixes = {spot.prefix for spot in spots.values()}
    table: dict[tuple[str, str], dict[str, str]] = {}  # prefix and key -> folder of the image ("": none) -> image
    below_prefix: dict[str, list[str]] = {}
    for name in images if prefixes else ():
        if name in spots:
            continue
        stem = _stem(name)
        for prefix in [prefix for prefix in _above(name.rpartition("/")[0]) if prefix in prefixes]:
            below_prefix.setdefault(prefix, []).append(name)
            rest = stem[len(prefix) :]
            table.setdefault((prefix, rest), {}).setdefault("", name)
            head, slash, below = rest.partition("/")
            if slash:
                key = below.removesuffix(f"_{head}")  # leftImg8bit/a_leftImg8bit.png
                table.setdefault((prefix, key), {}).setdefault(head.lower(), name)
    numbers = {prefix: _by_number(names) for prefix, names in below_prefix.items()}

    def image_of(spot: Spot) -> str | None:
        ends = _END.fullmatch(spot.key)
        start = spot.key.find(f"_{spot.folder}_")  # gtFine/a_gtFine_labelIds.png
        for key in (spot.key, *([ends[1]] if ends else []), *([spot.key[:start]] if start > 0 else [])):
            near = table.get((spot.prefix, key), {})
            names = [folder for folder in spot.beside or (*IMAGES[:6], "") if folder in near]
            names = names or [folder for folder in IMAGES[6:] if folder in near]
            if not names and (not spot.beside or ends) and len(near) == 1:
                names = [*near]
            if names:
                return near[names[0]]
        if spot.beside:
            return None
        if spot.prefix and len(below_prefix.get(spot.prefix, [])) == 1:  # the folder of one image and its masks
            return below_prefix[spot.prefix][0]
        part = _PART.fullmatch(spot.key)
        return numbers.get(spot.prefix, {}).get(int(part[1])) if part else None

    return image_of


def _by_number(names: Sequence[str]) -> dict[int, str]:
    """Images whose names are numbers, if all are, and different."""
    numbers = {
        int(PurePosixPath(name).stem): name for name in names if re.fullmatch(r"\d{1,12}", PurePosixPath(name).stem)
    }
    return numbers if len(numbers) == len(names) else {}


@lru_cache(maxsize=1024)
def _above(folder: str) -> tuple[str, ...]:
    """ "", "a/" and "a/b/" of the folder a/b, composed as stems are."""
    parts = composed(folder).split("/") if folder else []
    return ("", *("".join(f"{part}/" for part in parts[: i + 1]) for i in range(len(parts))))


def _stem(name: str) -> str:
    return composed(stem(name))


def _is_near(image: str, spot: Spot | None) -> bool:
    """Whether the folders leave no doubt: by the ends of names, or beside images/ or the images themselves."""
    folders = image.lower().split("/")[:-1]
    return (
        spot is None
        or bool({*spot.beside, *IMAGES} & {*folders})
        or "".join(f"{f}/" for f in folders) == spot.prefix.lower()
    )


def _share_of_flat(tree: Tree, near: Mapping[str, bool]) -> float:
    """Of some masks that can be decoded, those with the values of masks; drawings beside a class folder have colours.

    Args:
        near: mask -> whether its folder is near that of its image.
    """
    flat = []
    with decode.quiet():
        for name in [*near][:: -(-len(near) // LOOKED_AT)]:
            try:
                values = read_values(tree.files[name].read())
                flat.append(values.flat and (near[name] or values.kind in ("grey", "index")))
            except (OSError, decode.Unusable):  # the report will say what is wrong with it
                continue
    return sum(flat) / len(flat) if flat else 0.0


def _some(names: Iterable[str]) -> str:
    listed = [printable(name) for name in names]
    return ", ".join(listed[:3]) + f" and {len(listed) - 3:,} more" * (len(listed) > 3)
