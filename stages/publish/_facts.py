"""What a card says of a release, as plain values: counts, sources, methods, samples, changes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, Final, get_type_hints

import polars as pl

from pipeline.errors import UserError
from pipeline.execution.snapshot import Snapshot
from pipeline.recipe.discovery import find
from pipeline.recipe.docstrings import docstring_of
from pipeline.releases.diff import CHANGES, causes_of, changed_rows
from pipeline.stage import Option
from pipeline.store.hashing import to_json_value
from schemas.release import Release, ReleaseStage
from schemas.turns import turn_text
from stages._privacy.redaction import redacted
from stages._privacy.scan import DEFAULT_KINDS, scan
from stages._selection.random_draws import uniform
from stages.publish.citations import chosen_group, cited

CHOOSING: Final = ("select.", "mix.")
"""Families that decide which rows stay, beside those that find rows unfit."""

SIDES: Final = ("messages", "prompt", "chosen", "rejected")
"""The columns of turns: of a record, and of a pair."""

BASELINES: Final = ("random", "pool")
"""Arms of an ablation that no stage selected."""

NUM_SAMPLES: Final = 3
MAX_CAUSES: Final = 10
"""Reasons for differences from the last version, the largest ones."""

MAX_TURN: Final = 600
"""Characters of a turn that a sample shows."""

COMMON_LANGUAGE: Final = 0.01
"""The share of the rows from which a language is one of the data set's: a rare one is often a
short text that the tagger misread."""


def upstream(release: Release) -> list[ReleaseStage]:
    """The stages that the published rows came through, in the order of the release.

    Args:
        release: The release.
    """
    needs = {stage["name"]: stage["needs"] for stage in release["stages"]}
    waiting, reached = list(release["published"]), set[str]()
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += [below for names in needs[name].values() for below in names]
    return [stage for stage in release["stages"] if stage["name"] in reached]


def published_rows(
    snapshot: Snapshot, release: Release, columns: Sequence[str], only: pl.Series | None = None
) -> pl.DataFrame:
    """The published rows, each once, with those of the columns that any of them has.

    Args:
        snapshot: The release's rows.
        release: The release.
        columns: The columns beside `id`.
        only: The ids of the rows; None for all.
    """
    parts = []
    for name in release["published"]:
        view = snapshot.stages[name].view
        visible = [c for c in columns if view is not None and c in view.columns]
        part = snapshot.rows(name, columns=visible)
        parts.append(part if only is None else part.filter(pl.col("id").is_in(only.implode())))
    rows = pl.concat(parts, how="diagonal_relaxed") if parts else pl.DataFrame({"id": []})
    return rows.unique("id", keep="first", maintain_order=True).sort("id")


def sources(rows: pl.DataFrame) -> list[dict[str, Any]]:
    """Rows by source and license, most first; a row of two sources counts under both.

    Args:
        rows: With `id` and `origins`.
    """
    origins = rows.select("id", "origins").explode("origins", empty_as_null=False)
    origins = origins.filter(pl.col("origins").is_not_null()).unnest("origins")
    counts = origins.group_by("source", "license").agg(rows=pl.col("id").n_unique())
    return counts.sort(["rows", "source"], descending=[True, False], nulls_last=True).to_dicts()


def languages(rows: pl.DataFrame) -> list[dict[str, Any]]:
    """Rows by the language that `tag.surface` saw, most first; empty where it did not run.

    Args:
        rows: With or without `language`.
    """
    if "language" not in rows.columns or rows["language"].dtype != pl.String:
        return []
    counts = rows.group_by("language").agg(rows=pl.len()).drop_nulls()
    return counts.sort(["rows", "language"], descending=[True, False]).to_dicts()


def ids_before_redaction(rows: pl.DataFrame) -> pl.Series:
    """The ids of rows as they were written: taking secrets out of a row makes it no other one.

    Args:
        rows: With `id`, and with `parents` and `redacted` where `rewrite.redact` ran.
    """
    if "redacted" not in rows.columns:
        return rows["id"]
    is_redacted = pl.col("redacted").list.len().fill_null(0) > 0
    before = pl.when(is_redacted).then(pl.col("parents").list.first())
    return rows.select(pl.coalesce(before, "id").alias("id"))["id"]


def ablations(snapshot: Snapshot) -> list[dict[str, Any]]:
    """What the stages `report.ablation` of a release found: their stage and their comparisons.

    Those with random draws and the whole pool, where there are any: of many sets of rows the
    comparisons of each with each would fill the card.

    Args:
        snapshot: The release's rows.

    Raises:
        UserError: Such a result is damaged.
    """
    results = []
    for stage in snapshot.stages.values():
        if stage.uses == "report.ablation" and stage.artifact:
            result = json.loads((stage.artifact.verified_files() / "ablation.json").read_text())
            every = result["comparisons"]
            with_draws = [entry for entry in every if entry["arm"] in BASELINES]
            shown = with_draws or every
            several = len({(entry["selected"], entry["eval_rows"]) for entry in shown}) > 1
            entries = [entry | {"several": several} for entry in shown]
            results.append({"stage": stage.name, "comparisons": entries})
    return results


def written(snapshot: Snapshot, release: Release, ids: pl.Series) -> list[dict[str, Any]]:
    """How many of the published rows the language models of each stage wrote.

    Args:
        snapshot: The release's rows.
        release: The release.
        ids: The ids of the published rows.
    """
    counts = []
    for stage in upstream(release):
        if stage["parts"].get("models") and stage["makes"] == "rows":
            new = snapshot.rows(stage["name"], columns=[])["id"]
            for below in (name for names in stage["needs"].values() for name in names):
                if snapshot.stages[below].view is not None:
                    new = new.filter(~new.is_in(snapshot.rows(below, columns=[])["id"].implode()))
            rows = int(ids.is_in(new.implode()).sum())
            counts.append({"stage": stage["name"], "rows": rows})
    return counts


def model_name(identity: Any) -> str:
    """A model's name for people, from its identity.

    Args:
        identity: What entered the fingerprint; of several models a list.

    >>> model_name({"weights": {"name": "org/model", "revision": "4f2a"}, "dtype": "auto"})
    'org/model @ 4f2a'
    >>> model_name({"weights": {"digest": "9c0d7f3a55aa"}})
    'local weights 9c0d7f3a55aa'
    """
    if isinstance(identity, list):
        return ", ".join(map(model_name, identity))
    weights = identity.get("weights", {}) if isinstance(identity, Mapping) else {}
    if "name" in weights:
        return f"{weights['name']} @ {weights['revision']}"
    if "digest" in weights:
        return f"local weights {weights['digest']}"
    return str(weights.get("id") or weights.get("served") or json.dumps(identity))


def methods(stages: Sequence[ReleaseStage]) -> list[dict[str, Any]]:
    """What each stage did: its first sentence, the options that are not the default, its papers.

    Args:
        stages: Stages of a release.
    """
    return [_method(stage) for stage in stages]


def _method(entry: ReleaseStage) -> dict[str, Any]:
    options = entry["parts"].get("options", {})
    try:
        stage = find(entry["uses"])
    except UserError:  # a stage of the user's own that is not on this machine
        return {**entry, "about": "", "options": options, "papers": []}
    changed = {
        option.name: _shown(option.annotation, options[option.name])
        for option in stage.options
        if option.name in options and not _is_default(option, options[option.name])
    }
    # What a loader names are the sources of its formats, and not methods.
    papers = [] if entry["uses"].startswith("load.") else cited(stage, options)
    about = docstring_of(stage.function).summary
    return {**entry, "about": about, "options": changed, "papers": papers}


def _is_default(option: Option, value: Any) -> bool:
    """Whether an option need not be shown; files enter by content, which says little."""
    return option.names_files or (not option.required and value == to_json_value(option.default))


def _shown(annotation: Any, value: Any) -> Any:
    """A method as a recipe would write it: its name, and its options that are not the default."""
    group = chosen_group(annotation, value)
    if group is None:
        return value
    hints = get_type_hints(group, include_extras=True)
    defaults = {f.name: f.default for f in fields(group) if f.default is not MISSING}
    return {
        name: _shown(hints[name], inner)
        for name, inner in value.items()
        if name == "name" or name not in defaults or to_json_value(defaults[name]) != inner
    }


def samples(snapshot: Snapshot, release: Release, count: int = NUM_SAMPLES) -> list[dict[str, Any]]:
    """Some of the published rows, by a hash of their ids, with each turn's role and text.

    Args:
        snapshot: The release's rows.
        release: The release.
        count: How many.
    """
    ids = published_rows(snapshot, release, [])
    drawn = ids.with_columns(draw=pl.Series(uniform(ids["id"], "card"))).sort("draw")[:count]
    rows = published_rows(snapshot, release, [*SIDES, "origins"], drawn["id"])
    rows = drawn.join(rows, on="id", how="left", maintain_order="left")
    result: list[dict[str, Any]] = []
    for row in rows.to_dicts():
        named = {origin["source"] for origin in row.get("origins") or () if origin["source"]}
        result.append({"id": row["id"], "sources": sorted(named), "turns": [*_turns(row)]})
    return _without_personal_data(result)


def _turns(row: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    for side in SIDES:
        for turn in row.get(side) or ():
            text = turn_text(turn, "all")
            role = turn["role"] if side in ("messages", "prompt") else f"{side}: {turn['role']}"
            yield {"role": role, "text": text}


def _without_personal_data(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The samples, cut and with marks in place of what the gate would warn of.

    A card is read by more people, and by more search engines, than the rows are.
    """
    turns = [turn for row in rows for turn in row["turns"]]
    texts = pl.DataFrame({"text": [turn["text"] for turn in turns]}, schema={"text": pl.String})
    marks: dict[int, dict[str, str]] = {}
    for finding in scan(texts, DEFAULT_KINDS, ("US",)).iter_rows(named=True):
        marks.setdefault(finding["row"], {})[finding["value"]] = f"[{finding['name']}]"
    for position, turn in enumerate(turns):
        text = redacted(turn["text"], marks.get(position, {}))
        turn["text"] = text if len(text) <= MAX_TURN else f"{text[:MAX_TURN]}…"
    return rows


def changes(release: Release, previous: Release, snapshots: Sequence[Snapshot]) -> dict[str, Any]:
    """What is other than in the release before.

    Args:
        release: The release.
        previous: The one before it.
        snapshots: Of both, in this order.

    Returns:
        `rows`: how many there are `now` and were `before`, and how many were `added`, `removed`
        and `changed`, these None where the store no longer has the rows; `causes`: the stages
        and reasons behind most of them; and `stages`: what happened to each stage that changed.
    """
    both = (release, previous)
    now, before = (r["counts"]["kept"] for r in both)
    rows: dict[str, int | None] = {"before": before, "now": now}
    try:
        lines = changed_rows(snapshots[1], snapshots[0])
        rows |= {kind: int(lines["change"].eq(kind).sum()) for kind in CHANGES}
        causes = causes_of(lines)
    except UserError:
        rows |= dict.fromkeys(CHANGES)
        causes = []
    stages = [{s["name"]: s for s in r["stages"]} for r in both]
    names = [*stages[0], *(name for name in stages[1] if name not in stages[0])]
    events = {name: _change(*(of.get(name) for of in stages)) for name in names}
    return {
        "version": previous["version"],
        "rows": rows,
        "causes": sorted(causes, key=lambda cause: -cause["rows"])[:MAX_CAUSES],
        "stages": {name: event for name, event in events.items() if event},
    }


def _change(now: ReleaseStage | None, before: ReleaseStage | None) -> str:
    """What happened to one stage; empty for nothing that its own options or code did."""
    if now is None or before is None:
        return "new" if before is None else "gone"
    if now["uses"] != before["uses"]:
        return f"{now['uses']} in place of {before['uses']}"
    parts = [s["parts"].get("options", {}) for s in (now, before)]
    changed = sorted(k for k in {*parts[0], *parts[1]} if parts[0].get(k) != parts[1].get(k))
    events = [f"options {', '.join(changed)}"] if changed else []
    events += ["models"] if now["parts"].get("models") != before["parts"].get("models") else []
    events += ["input files"] if now["parts"].get("files") != before["parts"].get("files") else []
    if now["version"] != before["version"]:
        events.append(f"version {before['version']} to {now['version']} of the stage")
    return "; ".join(events)
