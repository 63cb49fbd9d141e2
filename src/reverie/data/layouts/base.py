"""What a layout is, and what several of them share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from reverie.core.terminal import count
from reverie.data.captions import Captions
from reverie.data.items import Item, Listing, split_of
from reverie.data.tree import Tree
from reverie.data.types import Problem


@dataclass
class Reading:
    """A tree read in one layout.

    Attributes:
        title: what it was read as, in words for the report.
        items: path of the image -> its item; of pairs, of the target.
        used: other files that were read.
        problems: files that were not used, and why.
        attributes: names of the items' attributes.
        splits: the words of the title on the split of the folders, see ``split_words``.
    """

    title: str
    items: dict[str, Item]
    used: set[str] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)
    attributes: list[str] = field(default_factory=list)
    splits: str = ""


@dataclass(frozen=True)
class Match:
    """A layout's answer about a tree.

    Attributes:
        why: it fits or not.
        read: reads the tree; None if it does not fit.
        answer: "yes"; "no"; "ask": only the user can tell; "on request": it may fit, and is read so if asked for.
    """

    why: str
    read: Callable[[], Reading] | None = None
    answer: str = "no"

    @classmethod
    def yes(cls, why: str, read: Callable[[], Reading]) -> Match:
        return cls(why, read, "yes")


@dataclass(frozen=True)
class Layout:
    """One way to arrange images in folders.

    Attributes:
        name: for ``layout``.
        about: what it looks like.
        match: says whether a tree has it.
    """

    name: str
    about: str
    match: Callable[[Tree], Match]


def described(reading: Reading, captions: Captions) -> tuple[list[Item], list[str]]:
    """The items with the words of captions and tables, and the names of their attributes."""
    names, numbers = captions.attributes(reading.items)
    items = [captions.describe(item, name) for name, item in reading.items.items()]
    if names and not reading.attributes:
        items = [replace(item, attributes=numbers[name]) for item, name in zip(items, reading.items, strict=True)]
    return items, reading.attributes or names


def divided(listing: Listing, captions: Captions, sides: Mapping[str, str | None]) -> Listing:
    """The listing with the splits that tables say; ``sides`` are the splits of folders, by the paths of its items."""
    if captions.divides:
        parts = {name: captions.splits.get(name, "") for name in sides}
        other = sum(None not in (side, now := split_of(parts[name])) and side != now for name, side in sides.items())
        listing.divide([*parts.values()])
        if other:
            action = f"used: the split of tables or lists, to which the folders of {count(other, 'image')} are contrary"
            listing.problems.append(Problem("*", "table", action))
    return listing
