"""Tables and texts that the command line prints: plain text, aligned, at most about 100 columns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pipeline.execution.estimate import estimate_steps
from pipeline.execution.plan import PlannedStep, differences, plan
from pipeline.recipe.recipe import Recipe
from pipeline.stage import BASE_COLUMNS
from pipeline.store.store import Store

WIDTH: Final = 100

REPEATED: Final = {name for columns in BASE_COLUMNS.values() for name in columns}
"""Columns of the row itself, which a record's history shows only where they change."""


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """An aligned table.

    Args:
        header: The names of the columns.
        rows: The cells.
        right: The numbers of the columns set flush right.

    Example:
        >>> print(table(["stage", "rows"], [["load", "9"], ["dedup", "10"]], right=[1]))
        stage  rows
        -----  ----
        load      9
        dedup    10
    """
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]

    def render(line: Sequence[str]) -> str:
        cells = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([render(header), rule, *(render(line) for line in rows)])


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def funnel(stages: Sequence[Mapping[str, Any]]) -> str:
    """The rows in, created, kept, dropped and failed of each stage, with the drop reasons.

    Args:
        stages: The entries of `history.status`.
    """
    rows = []
    for s in stages:
        dropped = s["dropped"]
        numbers = [s["rows_in"], s["created"], s["kept"], sum(dropped.values()), s["failed"]]
        # A stage that makes files and no rows has nothing to count.
        counts = [_count(number) if any(numbers) else "" for number in numbers]
        seconds = f"{s['seconds']:.1f} s" if s["seconds"] is not None else ""
        rows.append([s["name"], s["uses"], *counts, seconds, s["state"]])
        for reason, number in sorted(dropped.items(), key=lambda item: -item[1]):
            rows.append(["", f"  {reason}", "", "", "", _count(number), "", "", ""])
    header = ["stage", "uses", "in", "created", "kept", "dropped", "failed", "time", "state"]
    files = [f"{s['name']}: {s['files']}" for s in stages if s["files"]]
    text = table(header, rows, right=(2, 3, 4, 5, 6, 7))
    return "\n".join([text, *(["", *files] if files else [])])


def estimates(
    recipe: Recipe, store: Store, planned_steps: Sequence[PlannedStep]
) -> list[dict[str, Any]]:
    """The plan with the estimate of each step; see `pipeline.execution.estimate`.

    Args:
        recipe: The recipe.
        store: Its store.
        planned_steps: The plan.
    """
    expected = estimate_steps(recipe, store, planned_steps)
    return [
        {
            "name": planned.step.name,
            "uses": planned.step.stage.name,
            "state": planned.state,
            "fingerprint": planned.fingerprint,
            "causes": planned.causes,
            "drifted": planned.drifted,
            "preview": planned.step.stage.preview(planned.options),
            **vars(expected[planned.step.name]),
        }
        for planned in planned_steps
    ]


def plan_table(entries: Sequence[Mapping[str, Any]]) -> str:
    """States and causes, with the estimated requests, tokens and money.

    Args:
        entries: What `estimates` returns.
    """
    priced = any(e["money"] for e in entries)
    rows = []
    for e in entries:
        causes = e["causes"] or [""]
        most = "<= " if e["at_most"] else ""
        numbers = [_count(e["rows"]), _count(e["requests"])]
        numbers += [most + _count(e["tokens"]) if e["tokens"] else ""]
        numbers += [f"{most}{e['money']:,.4g}" if e["money"] else ""] if priced else []
        rows.append([e["name"], e["uses"], e["state"], *numbers, causes[0]])
        rows += [["", "", "", *("" for _ in numbers), cause] for cause in causes[1:]]
    money = ["money"] if priced else []
    header = ["stage", "uses", "state", "rows", "requests", "tokens", *money, "why"]
    text = table(header, rows, right=(3, 4, 5, 6) if priced else (3, 4, 5))
    previews = [f"{e['name']}: {line}" for e in entries for line in e["preview"]]
    text = "\n".join([text, *(["", *previews] if previews else [])])
    drifted = sorted({e["uses"] for e in entries if e["drifted"]})
    if drifted:
        text += (
            f"\n\nwarning: the code of {', '.join(drifted)} changed under the same version; "
            "run refuses until the version is raised or --accept-code is given"
        )
    waiting = sum(e["state"] != "cached" for e in entries)
    end = "" if waiting else ": nothing to do"
    return f"{text}\n\n{waiting} of {len(entries)} stages to run{end}"


def reasons(recipe: Recipe, store: Store, name: str) -> dict[str, Any]:
    """Why a stage would run, or what last made it run; with the stages it waits for.

    Args:
        recipe: The recipe.
        store: Its store.
        name: The stage's name in the recipe.

    Raises:
        UserError: The recipe has no such stage.
    """
    recipe.step(name)
    stages = []
    for planned in plan(recipe, store, [name]):
        cached = planned.state == "cached"
        if planned.step.name == name or planned.state not in ("cached", "unknown"):
            causes = _last_change(recipe, store, planned) if cached else planned.causes
            uses = planned.step.stage.name
            entry = {"name": planned.step.name, "uses": uses, "state": planned.state}
            stages.append({**entry, "causes": causes})
    return {"recipe": recipe.name, "stage": name, "stages": stages[::-1]}


def _last_change(recipe: Recipe, store: Store, planned: PlannedStep) -> list[str]:
    before = store.latest(recipe.name, planned.step.name, other_than=planned.fingerprint)
    if before is None or planned.parts is None:
        return ["nothing changed since its only artifact"]
    changed = differences(before.manifest["parts"], planned.parts, planned.step)
    return [f"changed since the artifact before: {cause}" for cause in changed]


def record_history(record: Mapping[str, Any]) -> str:
    """A record's history, a paragraph for each stage.

    Args:
        record: What `history.explain` returns.
    """
    lines = [f"record {record['id']}"]
    shown: dict[str, Any] = {}
    for event in record["history"]:
        lines.append(f"\n{event['stage']} ({event['uses']}): {event['verdict']}")
        for key, value in event.items():
            repeated = key in REPEATED and shown.get(key) == value
            if key not in ("stage", "uses", "verdict") and not repeated:
                lines.append(f"  {key}: {_short(value)}")
                shown[key] = value
    return "\n".join(lines)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split())
    return text if len(text) <= WIDTH * 3 else text[: WIDTH * 3] + f"... ({len(text):,} characters)"
