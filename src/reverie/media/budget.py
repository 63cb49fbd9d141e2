"""A budget of memory in flight: threads that decode together hold a bounded number of pixels."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

PER_THREAD = 128 << 20  # bytes: two photographs of 12 megapixels while they are decoded
_BYTES = {"1": 3, "L": 3, "P": 6, "I;16": 6, "I;16B": 6, "I;16L": 6, "I": 10, "F": 10, "LA": 12, "RGBA": 12, "PA": 12}


def threads() -> int:
    """Decoding threads of this machine: one more than the cores that this process may use, at most 32."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count() or 1
    return min(32, cores + 1)


class Budget:
    """At most ``most`` bytes held at once; more than that only by one holder alone."""

    def __init__(self, most: int):
        self.most, self.used, self.changed = most, 0, threading.Condition()

    @contextlib.contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Wait until ``size`` bytes are free, and hold them. Not to be nested."""
        with self.changed:
            self.changed.wait_for(lambda: not self.used or self.used + size <= self.most)
            self.used += size
        try:
            yield
        finally:
            with self.changed:
                self.used -= size
                self.changed.notify_all()


DECODING = Budget(PER_THREAD * threads())


def decoded_bytes(mode: str, size: tuple[int, int]) -> int:
    """Peak memory of an image while it is decoded and converted to 8 bits, by its Pillow mode."""
    return size[0] * size[1] * _BYTES.get(mode, 8)
