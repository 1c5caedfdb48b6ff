"""What error texts name: valid names near a wrong one, and paths as a person knows them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, Final

from pipeline import ROOT

CLOSE: Final = 0.65
"""The similarity from which a name may be a slip for another: one letter of three differs."""

NEARLY: Final = 0.15
"""How much less similar than the closest name another one may be to be offered beside it."""


def closest(name: str, valid: Iterable[Any]) -> str | None:
    """A "did you mean" with the valid names close to this one; None where there is none.

    Case and the kind of dash do not count, a stage is known without its family, and an
    option by some of its words.

    Example:
        >>> closest("budgte", ["budget", "seed"])
        "did you mean 'budget'?"
        >>> closest("Loss", ["score.loss", "score.knn"]), closest("batch", ["batch_size"])
        ("did you mean 'score.loss'?", "did you mean 'batch_size'?")
        >>> closest("count", ["source", "num_rows"])
    """
    scores = {str(k): similarity(name, str(k)) for k in valid}
    best = max(scores.values(), default=0.0)
    close = [k for k, score in scores.items() if score >= max(CLOSE, best - NEARLY)]
    close.sort(key=lambda k: -scores[k])
    return f"did you mean {' or '.join(map(repr, close[:3]))}?" if close else None


def similarity(name: str, valid: str) -> float:
    """From 0 to 1: how likely it is that somebody who writes `name` means `valid`."""
    parts = [re.split(r"[_.\- ]+", text.lower()) for text in (name, valid)]
    if all(parts[0]) and {*parts[0]} <= {*parts[1]}:
        return 1.0
    texts = ["_".join(words) for words in parts]
    method = valid.lower().rpartition(".")[2].replace("-", "_")
    return max(SequenceMatcher(None, texts[0], text).ratio() for text in (texts[1], method))


def suggest(name: str, valid: Iterable[Any]) -> str | None:
    """A "did you mean" for a name, else the list of the valid names; None without any.

    Example:
        >>> suggest("unit", ["budget", "seed"])
        'there are: budget, seed'
    """
    names = [str(k) for k in valid]
    return closest(name, names) or (f"there are: {', '.join(names)}" if names else None)


def display(path: Path) -> str:
    """A path as a person knows it: relative to where they stand or to the repository."""
    for base in (Path.cwd(), ROOT):
        if path.is_relative_to(base):
            return str(path.relative_to(base))
    return str(path)
