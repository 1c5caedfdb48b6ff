"""Tables and texts that the command line prints: plain text, aligned, at most about 100 columns."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pipeline.errors import UserError
from pipeline.execution.estimate import estimate_steps
from pipeline.execution.plan import PlannedStep, differences, plan
from pipeline.recipe.recipe import Recipe
from pipeline.stage import BASE_COLUMNS, ROOT, Stage
from pipeline.store.store import Store

WIDTH: Final = 100

REPEATED: Final = {name for columns in BASE_COLUMNS.values() for name in columns}
"""Columns of the row itself, that `way` tells only where they change."""


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """An aligned table; `right` are the numbers of the columns set flush right."""
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
    """What became of the rows, stage by stage; reasons for dropping on lines of their own."""
    rows = []
    for s in stages:
        dropped = s["dropped"]
        told = [s["rows_in"], s["created"], s["kept"], sum(dropped.values()), s["failed"]]
        # A stage that makes files and no rows has nothing to count.
        counts = [_count(count) if any(told) else "" for count in told]
        took = f"{s['seconds']:.1f} s" if s["seconds"] is not None else ""
        rows.append([s["name"], s["uses"], *counts, took, s["state"]])
        for reason, number in sorted(dropped.items(), key=lambda item: -item[1]):
            rows.append(["", f"  {reason}", "", "", "", _count(number), "", "", ""])
    header = ["stage", "uses", "in", "created", "kept", "dropped", "failed", "time", "state"]
    made = [f"{s['name']}: {s['files']}" for s in stages if s["files"]]
    return "\n".join(
        [table(header, rows, right=(2, 3, 4, 5, 6, 7)), *(["", *made] if made else [])]
    )


def estimates(recipe: Recipe, store: Store, planned: Sequence[PlannedStep]) -> list[dict[str, Any]]:
    """The plan with what can be expected of it; see `pipeline.execution.estimate`."""
    expected = estimate_steps(recipe, store, planned)
    return [
        {
            "name": look.step.name,
            "uses": look.step.stage.name,
            "state": look.state,
            "fingerprint": look.fingerprint,
            "causes": look.causes,
            "drifted": look.drifted,
            **vars(expected[look.step.name]),
        }
        for look in planned
    ]


def plan_table(told: Sequence[Mapping[str, Any]]) -> str:
    """States and causes, with what is expected to be asked of language models."""
    priced = any(t["money"] for t in told)
    rows = []
    for t in told:
        causes = t["causes"] or [""]
        most = "<= " if t["at_most"] else ""
        numbers = [_count(t["rows"]), _count(t["requests"])]
        numbers += [most + _count(t["tokens"]) if t["tokens"] else ""]
        numbers += [f"{most}{t['money']:,.4g}" if t["money"] else ""] if priced else []
        rows.append([t["name"], t["uses"], t["state"], *numbers, causes[0]])
        rows += [["", "", "", *("" for _ in numbers), cause] for cause in causes[1:]]
    money = ["money"] if priced else []
    header = ["stage", "uses", "state", "rows", "requests", "tokens", *money, "why"]
    text = table(header, rows, right=(3, 4, 5, 6) if priced else (3, 4, 5))
    drifted = sorted({t["uses"] for t in told if t["drifted"]})
    if drifted:
        text += (
            f"\n\nwarning: the code of {', '.join(drifted)} changed under the same version; "
            "run refuses until the version is raised or --accept-code is given"
        )
    waiting = sum(t["state"] != "cached" for t in told)
    return (
        text
        + f"\n\n{waiting} of {len(told)} stages to run"
        + ("" if waiting else ": nothing to do")
    )


def reasons(recipe: Recipe, store: Store, name: str) -> dict[str, Any]:
    """Why a stage would run, or what last made it run; with the stages it waits for."""
    if name not in recipe.steps:
        known = ", ".join(recipe.steps)
        raise UserError(f"the recipe has no stage {name!r}", hint=f"there are: {known}")
    stages = []
    for look in plan(recipe, store, [name]):
        if look.step.name == name or look.state not in ("cached", "unknown"):
            causes = look.causes if look.state != "cached" else _last_change(recipe, store, look)
            entry = {"name": look.step.name, "uses": look.step.stage.name, "state": look.state}
            stages.append({**entry, "causes": causes})
    return {"recipe": recipe.name, "stage": name, "stages": stages[::-1]}


def _last_change(recipe: Recipe, store: Store, look: PlannedStep) -> list[str]:
    before = store.latest(recipe.name, look.step.name, other_than=look.fingerprint)
    if before is None or look.parts is None:
        return ["nothing changed since its only artifact"]
    changed = differences(before.manifest["parts"], look.parts, look.step)
    return [f"changed since the artifact before: {cause}" for cause in changed]


def way(told: Mapping[str, Any]) -> str:
    """A record's way, a paragraph a stage."""
    lines = [f"record {told['id']}"]
    known: dict[str, Any] = {}
    for event in told["history"]:
        lines.append(f"\n{event['stage']} ({event['uses']}): {event['verdict']}")
        for key, value in event.items():
            told_before = key in REPEATED and known.get(key) == value
            if key not in ("stage", "uses", "verdict") and not told_before:
                lines.append(f"  {key}: {_short(value)}")
                known[key] = value
    return "\n".join(lines)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split())
    return text if len(text) <= WIDTH * 3 else text[: WIDTH * 3] + f"... ({len(text):,} characters)"


def stage_entry(stage: Stage) -> dict[str, Any]:
    """A stage's documentation, from its signature and docstrings."""
    module = inspect.getmodule(stage.function)
    makes = str(stage.makes or ("rows" if stage.annotates else "files"))
    path = stage.file
    return {
        "name": stage.name,
        "version": stage.version,
        "scope": stage.scope,
        "makes": makes + (" and files" if stage.fills_files and makes != "files" else ""),
        "edges": {
            e.name: " or ".join(e.kinds)
            + (" (several)" if e.many else "")
            + (" (optional)" if e.optional else "")
            for e in stage.edges
        },
        "options": {
            o.name: {
                "type": _type(o.annotation),
                "default": None if o.required else repr(o.default),
            }
            for o in stage.options
        },
        "source": str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name,
        "about": inspect.cleandoc(module.__doc__ or "") if module else "",
        "doc": inspect.getdoc(stage.function) or "",
    }


def _type(annotation: Any) -> str:
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    for prefix in ("typing.", "pipeline.models.base.", "pipeline.stage."):
        text = text.replace(prefix, "")
    marked = "Annotated[tuple[str, ...], <class 'InputFilesMark'>]"
    return text.replace(marked, "path, list or glob")


def stage_list(described: Sequence[Mapping[str, Any]]) -> str:
    """One line a stage."""
    rows = [[d["name"], d["scope"], d["makes"], d["about"].split("\n")[0]] for d in described]
    return table(["stage", "scope", "makes", "what it does"], rows)


def stage_page(entry: Mapping[str, Any]) -> str:
    """All about one stage."""
    lines = [
        f"{entry['name']}  version {entry['version']}, {entry['scope']} scope, {entry['source']}"
    ]
    lines += ["", entry["about"]]
    if entry["edges"]:
        lines += ["", "inputs"] + [f"  {name}: {kind}" for name, kind in entry["edges"].items()]
    if entry["options"]:
        lines += ["", "options"]
        for name, option in entry["options"].items():
            default = "required" if option["default"] is None else f"default {option['default']}"
            lines.append(f"  {name}: {option['type']}  ({default})")
    return "\n".join([*lines, "", entry["doc"]])
