"""What a refresh did: its result, and the log in the store with a line for each of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pipeline.errors import Exit
from pipeline.store.store import Store

LOG: Final = "refresh.log.jsonl"
NOTHING_NEW: Final = "nothing new"


@dataclass
class Refreshed:
    """What a refresh did.

    Attributes:
        recipe: The recipe's name.
        code: The exit code.
        outcome: In a few words: "released", "nothing new", or why there is no release.
        release: `NAME@VERSION` that the data set is at now; None without any release.
        published: Where that release is published; None where it is not.
        why: What was new, or what stood against a release, one sentence each.
        rows: `diff`'s counts against the release before; empty without one.
        causes: `diff`'s causes, the largest first.
        used: Requests and tokens of this refresh.
        seconds: How long it took.
        time: When it began: ISO 8601, UTC, to the second.
    """

    recipe: str
    code: Exit = Exit.DONE
    outcome: str = NOTHING_NEW
    release: str | None = None
    published: str | None = None
    why: list[str] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    causes: list[dict[str, Any]] = field(default_factory=list)
    used: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    time: str = ""


def was_published(store: Store, reference: str, to: str) -> bool:
    """Whether an earlier refresh published a release in a place.

    Args:
        store: The store.
        reference: `NAME@VERSION`.
        to: The address of the place.
    """
    return any(
        (entry.get("release"), entry.get("published")) == (reference, to)
        for entry in read_log(store)
    )


def read_log(store: Store) -> Sequence[dict[str, Any]]:
    """What each refresh did, oldest first; a line that was cut is left out.

    Args:
        store: The store.
    """
    path = store.root / LOG
    if not path.is_file():
        return []
    entries = []
    for line in path.read_text("utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        entries += [entry] if isinstance(entry, dict) else []
    return entries


def append(store: Store, result: Refreshed) -> None:
    """Add a line to the log.

    Args:
        store: The store.
        result: What a refresh did.
    """
    entry = {**vars(result), "code": int(result.code), "causes": result.causes[:5]}
    with (store.root / LOG).open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry, ensure_ascii=False) + "\n")
