"""The console for progress (stderr), and the format of durations."""

from __future__ import annotations

from rich.console import Console

console = Console(stderr=True, highlight=False)


def clock(seconds: float) -> str:
    """75 -> "1:15"."""
    seconds = round(seconds)
    hours, minutes = seconds // 3600, seconds // 60 % 60
    return f"{hours}:{minutes:02}:{seconds % 60:02}" if hours else f"{minutes}:{seconds % 60:02}"
