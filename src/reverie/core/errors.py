"""The exceptions that reverie raises on purpose: the command line prints them as text, never as a traceback."""


class ReverieError(Exception):
    """Something the user can act on.

    Its text says what happened, what was kept (if anything was at stake) and what to do next.
    """


class UsageError(ReverieError, ValueError):
    """A wrong call: an unknown name, an option out of range. A ``ValueError`` too. The command line exits with 2."""


def suggest(word: object, known: list[str]) -> str:
    """' Did you mean "vae"?' for a misspelt name, or an empty string when nothing is close or it is no name."""
    import difflib

    close = difflib.get_close_matches(str(word), known, n=1)
    return f' Did you mean "{close[0]}"?' if close else ""
