"""The specification of a sample: its medium, shape and range of values."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from reverie.core.errors import UsageError, argument
from reverie.core.values import integers, is_finite

Size = int | str | Sequence[int]  # a side in pixels, "48x64", or extents such as (48, 64)


@dataclass(frozen=True)
class Spec:
    """The specification of a sample in plain JSON values; ``Spec(**json)`` restores it.

    Attributes:
        medium: "image", "video", "volume" or "sequence".
        shape: spatial extents: (H, W), (T, H, W), (D, H, W) or (L,).
        channels: values per position.
        low, high: the stored values that map to -1 and 1 in a model.
        dtype: NumPy type of stored rows; "" is the medium's own.
    """

    medium: str
    shape: tuple[int, ...]
    channels: int
    low: float = 0.0
    high: float = 255.0
    dtype: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(extent) for extent in self.shape))
        if not is_range(self.low, self.high):
            raise UsageError(
                f"low is {self.low} and high is {self.high}: both must be finite, and high must be above low."
            )

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Spec:
        """The spec within a larger record, such as a data set's provenance."""
        return cls(**{field.name: record[field.name] for field in fields(cls) if field.name in record})

    def __str__(self) -> str:
        """For messages: "28x28x1"."""
        return "x".join(map(str, (*self.shape, self.channels)))

    @property
    def dimensions(self) -> int:
        """Number of values in a sample."""
        return math.prod(self.shape) * self.channels

    @property
    def square(self) -> int | None:
        """The side of a square image, else None."""
        return self.shape[0] if self.medium == "image" and self.shape[0] == self.shape[1] else None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"shape": list(self.shape)}


def is_range(low: Any, high: Any) -> bool:
    """Whether values from ``low`` to ``high`` can be scaled: both finite, as is their positive difference."""
    return is_finite(low) and is_finite(high) and low < high and is_finite(float(high) - float(low))


def parse_size(size: Size | None) -> tuple[int, ...] | None:
    """48, "48", "48x64" or (48, 64) to (48,) or (48, 64). None stays None.

    Raises:
        UsageError: no such size, or an extent outside 1 to 4096.
    """
    if size is None:
        return None
    if isinstance(size, str):
        if not re.fullmatch(r"\d{1,6}([xX×]\d{1,6})*", size.strip()):
            raise UsageError(f"{argument('size')} must be pixels, or HEIGHTxWIDTH such as 48x64, not {size!r}.")
        extents = integers([int(part) for part in re.split("[xX×]", size.strip())])
    else:
        extents = integers(size if isinstance(size, Iterable) else [size])
    if not extents or not all(1 <= extent <= 4096 for extent in extents):
        raise UsageError(f"{argument('size')} must be 1 to 4096 pixels, or (height, width), not {size!r}.")
    return extents
