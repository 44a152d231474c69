"""The nearest known word to one that is not known, for error messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` was most likely meant to be, or None where nothing is near."""
    matches = difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def suggestion(word: str, known: Iterable[str], *, noun: str) -> str:
    """How to mend an unknown word: names the nearest known one, else lists all of them.

    Example: `suggestion("memory", ("memory_mb", "arch"), noun="key")` → "did you mean the key 'memory_mb'?"
    """
    words = sorted(known)
    match = nearest(word, words)
    if match is not None:
        return f"did you mean the {noun} '{match}'?"
    return f"known {noun}s: {', '.join(words)}"
