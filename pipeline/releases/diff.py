"""What differs between two releases, or a release and now: rows, and the stages that did it.

A row is what its id says, so rows are added or removed, never edited. A removed and an added row
with one prompt count as one *changed* row: the same question, another answer. Each is put
down to the stage and reason that dropped it on the one side, or to the stage that made it on the
other. Distributions are compared by `stages.report._shifts`, settings by `changed_settings`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import polars as pl

from pipeline.errors import UserError
from pipeline.execution.snapshot import Snapshot
from pipeline.releases.changed_settings import changed_settings
from pipeline.releases.contents import passed_stages, published_stages, stages_of
from pipeline.releases.plugins import plugin
from pipeline.stage import DataKind
from schemas.records import digest, prompt_id

CHANGES: Final = ("added", "removed", "changed")
FAILED: Final = "failed"
NEW: Final = "new"
"""Why a row was added that the side before had nowhere."""

GONE: Final = "no longer there"
"""Why a row was removed that the side after has nowhere."""

OTHER_WAY: Final = "on no way to the published rows"
"""Why a row is not published that no stage dropped: the graph was wired otherwise."""

EXAMPLES: Final = 3
"""Rows of each kind that are shown."""

EXAMPLE_CHARACTERS: Final = 90
"""Of each text of a row that is shown."""

_SCHEMA: Final = {
    "change": pl.String(),
    "id": pl.String(),
    "replaces": pl.String(),
    "stage": pl.String(),
    "reason": pl.String(),
}


@dataclass(frozen=True)
class _Side:
    """One of two snapshots.

    Attributes:
        snapshot: The snapshot.
        published: The stages whose rows are published.
        ids: The ids of these rows, sorted.
    """

    snapshot: Snapshot
    published: list[str]
    ids: pl.Series

    @classmethod
    def of(cls, snapshot: Snapshot) -> _Side:
        """The side of a snapshot.

        Raises:
            UserError: Its published rows are not in the store.
        """
        published = published_stages(snapshot)
        if not published:
            raise UserError(f"no stage of {snapshot.title} makes rows", hint="nothing to compare")
        ids = [snapshot.rows(name, columns=[])["id"] for name in published]
        return cls(snapshot, published, pl.concat(ids).unique().sort())

    def rows(self, ids: pl.Series, columns: Sequence[str]) -> pl.DataFrame:
        """Some published rows with columns, those that a stage lacks as nulls; each row once."""
        frames = []
        for name in self.published:
            view = self.snapshot.stages[name].view
            present = [column for column in columns if view and column in view.columns]
            frame = self.snapshot.rows(name, columns=present)
            frames.append(frame.filter(pl.col("id").is_in(ids.implode())))
        return pl.concat(frames, how="diagonal_relaxed").unique("id", maintain_order=True)

    def prompts(self, ids: pl.Series) -> dict[str, str]:
        """What the prompt of each published row of these ids is, as a digest, by id."""
        kinds = {self.snapshot.stages[name].kind for name in self.published}
        if kinds == {DataKind.PAIRS}:
            return {row["id"]: digest(row["prompt"]) for row in self._dicts(ids, ["prompt"])}
        if kinds != {DataKind.RECORDS}:
            return {}
        rows = self._dicts(ids, ["messages", "tools"])
        return {row["id"]: prompt_id(row["messages"], row.get("tools")) for row in rows}

    def _dicts(self, ids: pl.Series, columns: Sequence[str]) -> list[dict[str, Any]]:
        return self.rows(ids, columns).sort("id").to_dicts()


def changed_rows(before: Snapshot, after: Snapshot) -> pl.DataFrame:
    """Every published row that was added, removed or changed, with what did it.

    Args:
        before: The earlier snapshot.
        after: The later one.

    Returns:
        One line each, by change and id: `change` ("added", "removed" or "changed"), `id`,
        `replaces` (the id of the row before, for changed ones), `stage` and `reason`. Of an
        added row they are the stage that dropped it *before*, and why; or the stage that made
        it, and "new". Of a removed one the stage that dropped it *after*; or the stage that made
        it before, and "no longer there". Of a changed one those of the row that it replaces.

    Raises:
        UserError: Published rows are not in the store.
    """
    return _changes(_Side.of(before), _Side.of(after))


def _changes(old: _Side, new: _Side) -> pl.DataFrame:
    added = new.ids.filter(~new.ids.is_in(old.ids.implode()))
    removed = old.ids.filter(~old.ids.is_in(new.ids.implode()))
    replaces = _replacements(old.prompts(removed), new.prompts(added))
    added_fates = _fates(added, missing_in=old, made_in=new, otherwise=NEW)
    removed_fates = _fates(removed, missing_in=new, made_in=old, otherwise=GONE)
    replaced = set(replaces.values())
    lines: list[tuple[str, str, str | None, str, str]]
    lines = [("added", i, None, *added_fates[i]) for i in added if i not in replaces]
    lines += [("changed", i, r, *removed_fates[r]) for i, r in sorted(replaces.items())]
    lines += [("removed", i, None, *removed_fates[i]) for i in removed if i not in replaced]
    return pl.DataFrame(lines, schema=_SCHEMA, orient="row")


def _replacements(removed: dict[str, str], added: dict[str, str]) -> dict[str, str]:
    """For added rows the removed ones with the same prompts, in the order of ids, each once."""
    waiting: dict[str, list[str]] = {}
    for identity, prompt in sorted(removed.items(), reverse=True):
        waiting.setdefault(prompt, []).append(identity)
    return {
        identity: waiting[prompt].pop()
        for identity, prompt in sorted(added.items())
        if waiting.get(prompt)
    }


def _fates(
    ids: pl.Series, *, missing_in: _Side, made_in: _Side, otherwise: str
) -> dict[str, tuple[str, str]]:
    """Why rows that one side publishes are not published by the other: stage and reason by id.

    Args:
        ids: The rows.
        missing_in: The side that does not publish them. The last stage on the way that
            dropped a row, or in which it failed, is the one that counts.
        made_in: The side that does.
        otherwise: The reason where the row is nowhere: the stage is then the first one that
            made it on the side that has it.
    """
    fates: dict[str, tuple[str, str]] = {}
    stages = stages_of(missing_in.snapshot)
    for stage in reversed(passed_stages(stages, missing_in.published)):
        for identity, reason in _lost(missing_in.snapshot, stage["name"], ids):
            fates.setdefault(identity, (stage["name"], reason))
    for side, reason in ((missing_in, OTHER_WAY), (made_in, otherwise)):
        for name, entry in side.snapshot.stages.items():
            if entry.makes == "rows" and entry.artifact and len(fates) < len(ids):
                kept = entry.artifact.read("kept", ["id"])["id"]
                for identity in ids.filter(ids.is_in(kept.implode())):
                    fates.setdefault(identity, (name, reason))
    return fates


def _lost(snapshot: Snapshot, name: str, ids: pl.Series) -> list[tuple[str, str]]:
    """The rows among these that a stage dropped or that failed in it, with the reasons."""
    artifact = snapshot.stages[name].artifact
    if artifact is None:
        return []
    lost = []
    if "drop_reason" in artifact.columns("dropped"):
        dropped = artifact.read("dropped", ["id", "drop_reason"])
        lost += dropped.filter(pl.col("id").is_in(ids.implode())).rows()
    if "id" in artifact.columns("failed"):
        failed = artifact.read("failed", ["id"])["id"]
        lost += [(identity, FAILED) for identity in failed.filter(failed.is_in(ids.implode()))]
    return lost


def diff(before: Snapshot, after: Snapshot) -> dict[str, Any]:
    """All differences of two snapshots, as JSON values.

    Args:
        before: The earlier one: a release.
        after: The later one: a release, or a recipe as the store has it now.

    Returns:
        `before` and `after` (titles), `rows` (how many were added, removed, changed and
        unchanged), `causes` (one line for each change, stage and reason, with its rows),
        `shifts` (what `stages.report._shifts` says of the published rows' distributions),
        `stages`, `options`, `models` and `sources` that changed, and `examples`.

    Raises:
        UserError: Published rows are not in the store.
    """
    old, new = _Side.of(before), _Side.of(after)
    changes = _changes(old, new)
    counts = {change: int(changes["change"].eq(change).sum()) for change in CHANGES}
    unchanged = len(new.ids) - counts["added"] - counts["changed"]
    return {
        "before": before.title,
        "after": after.title,
        "rows": {**counts, "unchanged": unchanged, "before": len(old.ids), "after": len(new.ids)},
        "causes": causes_of(changes),
        "shifts": plugin("shifts")(_described(old), _described(new)),
        **changed_settings(before, after),
        "examples": _examples(changes, old, new),
    }


def causes_of(changes: pl.DataFrame) -> list[dict[str, Any]]:
    """How many rows each stage and reason added, removed or changed.

    Args:
        changes: What `changed_rows` returned.

    Returns:
        `change`, `stage`, `reason` and `rows`; of each change the largest first.
    """
    causes = changes.group_by("change", "stage", "reason").agg(
        pl.len().cast(pl.Int64).alias("rows")
    )
    return causes.sort("change", -pl.col("rows"), "stage", "reason").to_dicts()


def _described(side: _Side) -> pl.DataFrame:
    """The published rows with all that the stages added to them."""
    views = [side.snapshot.stages[name].view for name in side.published]
    columns = [column for view in views if view for column in view.columns]
    return side.rows(side.ids, list(dict.fromkeys(columns)))


def _examples(changes: pl.DataFrame, old: _Side, new: _Side) -> list[dict[str, Any]]:
    """The first rows of each change: the first and the last of their texts, cut."""
    shown = changes.group_by("change", maintain_order=True).head(EXAMPLES)
    texts: dict[str | None, tuple[str, str]] = {None: ("", "")}
    for side, column in ((old, "id"), (old, "replaces"), (new, "id")):
        ids = shown[column].drop_nulls()
        rows = side.rows(ids, ["messages", "prompt", "chosen", "text"])
        texts |= {row["id"]: _texts(row) for row in rows.to_dicts()}
    return [
        {
            **{name: row[name] for name in ("change", "id", "stage", "reason")},
            "prompt": texts[row["id"]][0],
            "answer_before": texts[row["replaces"]][1],
            "answer": texts[row["id"]][1],
        }
        for row in shown.to_dicts()
    ]


def _texts(row: dict[str, Any]) -> tuple[str, str]:
    """What a record or a pair asks first and answers last."""
    turns = row.get("messages") or [*(row.get("prompt") or []), *(row.get("chosen") or [])]
    texts = [turn["content"] or "" for turn in turns] or [row.get("text") or ""]
    users = [turn["content"] or "" for turn in turns if turn["role"] == "user"]
    return _cut((users or texts)[0]), _cut(texts[-1] if len(texts) > 1 else "")


def _cut(text: str) -> str:
    line = " ".join(text[: 4 * EXAMPLE_CHARACTERS].split())
    return line if len(line) <= EXAMPLE_CHARACTERS else f"{line[:EXAMPLE_CHARACTERS]}..."
