"""Text for a terminal: names from data, files and runs are shown, and do nothing else."""

from __future__ import annotations

import re
from typing import TextIO

# Control characters, lone surrogates (undecodable bytes of names), line separators, and marks that reorder or hide
# their neighbours. The joiners U+200C and U+200D stay: emoji and Persian words need them.
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e00ff]"
)


def printable(text: object, stream: TextIO | None = None) -> str:
    r"""One line of text: what a terminal would obey or hide becomes ``\x1b``, ``\xe9`` (of an undecodable byte) ...

    Args:
        stream: characters that its encoding lacks are escaped too.
    """
    line = _HIDDEN.sub(_escape, str(text))
    encoding = getattr(stream, "encoding", None)
    return line.encode(encoding, "backslashreplace").decode(encoding) if encoding else line


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    code = code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def count(n: int, noun: str) -> str:
    """ "1 image", "1,200 images", "2 classes"."""
    return f"{n:,} {noun}{('es' if noun.endswith('s') else 's') * (n != 1)}"


def say(stream: TextIO, *lines: object) -> None:
    """Print lines; a line break inside one is escaped, so that a name cannot begin a line."""
    for line in lines:
        print(printable(line, stream), file=stream, flush=True)
