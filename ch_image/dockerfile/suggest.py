"""The word that was probably meant, for the hints of an error."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(word: str, candidates: Iterable[str]) -> str:
    """The candidate closest to ``word``, ignoring case; empty when none is close.

    Close is one slip in a short word and two in a longer one, where a slip is a letter added,
    lost, changed, or swapped with its neighbour.
    """
    if len(word) < 2:
        return ""
    best, limit = "", 2 if len(word) < 4 else 3
    for candidate in candidates:
        slips = _slips(word.lower(), candidate.lower(), limit)
        if 0 < slips < limit:
            best, limit = candidate, slips
    return best


def did_you_mean(word: str, candidates: Iterable[str], prefix: str = "") -> str:
    """A hint that names the nearest candidate, or all of them when none is close."""
    candidates = list(candidates)
    near = nearest(word, candidates)
    if near:
        return f"did you mean {prefix}{near}?"
    known = ", ".join(prefix + candidate for candidate in candidates)
    return f"known here: {known}" if known else ""


def _slips(left: str, right: str, limit: int) -> int:
    """Damerau's distance (optimal string alignment); ``limit`` or more when it is that far."""
    if abs(len(left) - len(right)) >= limit:
        return limit
    older: list[int] = []
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        oldest, older = older, row
        row = [i]
        for j, b in enumerate(right, 1):
            cost = min(older[j] + 1, row[j - 1] + 1, older[j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                cost = min(cost, oldest[j - 2] + 1)
            row.append(cost)
    return row[-1]
