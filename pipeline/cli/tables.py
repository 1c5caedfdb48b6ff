"""Tables and texts that the command line prints: plain text, as wide as the terminal."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from pipeline.execution.differences import differences
from pipeline.execution.estimate import Estimate, total
from pipeline.execution.plan import PlannedStep, plan
from pipeline.models.budget import DEFAULT_CURRENCY
from pipeline.models.journal.costs import HEADER, RIGHT, cost_rows, in_flight_note
from pipeline.models.journal.waiting import waiting_lines
from pipeline.recipe.recipe import Recipe
from pipeline.stage import BASE_COLUMNS
from pipeline.store.store import Store
from pipeline.terminal import visible_line
from pipeline.wording import amount

MAX_WIDTH: Final = 100
"""Columns beyond which text is tiring to read, however wide the terminal is."""

MIN_WRAPPED: Final = 16
"""Columns that the last column of a table keeps at least."""

MAX_SHOWN: Final = 300
"""Characters of a value that a record's history shows."""

REPEATED: Final = {name for columns in BASE_COLUMNS.values() for name in columns}
"""Columns of the row itself, which a record's history shows only where they change."""


def width() -> int:
    """Columns of the terminal; 80 where there is none."""
    return min(MAX_WIDTH, shutil.get_terminal_size().columns)


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Sequence[int] = (),
    optional: Sequence[int] = (),
) -> str:
    """An aligned table that fits the terminal, as far as that can be.

    Args:
        header: The names of the columns.
        rows: The cells.
        right: The numbers of the columns set flush right.
        optional: Columns that are left out where they do not fit, the first one first. What
            is then still too wide is the last column, which is wrapped.

    Example:
        >>> print(table(["stage", "rows"], [["load", "9"], ["dedup", "10"]], right=[1]))
        stage  rows
        -----  ----
        load      9
        dedup    10
    """
    lines = [[visible_line(cell) for cell in line] for line in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = list(range(len(header)))
    for column in optional:
        if _line_width([widths[i] for i in shown]) > width():
            shown.remove(column)
    last = shown[-1]
    room = width() - _line_width([widths[i] for i in shown[:-1]]) - 2
    if last not in right and widths[last] > room:
        widths[last] = max(MIN_WRAPPED, room)
        lines = [part for line in lines for part in _wrapped_cell(line, last, widths[last])]

    def render(line: Sequence[str]) -> str:
        cells = [
            line[i].rjust(widths[i]) if i in right else line[i].ljust(widths[i]) for i in shown
        ]
        return "  ".join(cells).rstrip()

    rule = "  ".join("-" * widths[i] for i in shown)
    return "\n".join([render(lines[0]), rule, *map(render, lines[1:])])


def _line_width(widths: Sequence[int]) -> int:
    return sum(widths) + 2 * (len(widths) - 1)


def _wrapped_cell(line: Sequence[str], column: int, limit: int) -> list[list[str]]:
    """The line, with others under it for what does not fit into one of its cells."""
    parts = textwrap.wrap(line[column], limit, break_on_hyphens=False) or [""]
    first = [*line[:column], parts[0], *line[column + 1 :]]
    return [
        first,
        *([""] * column + [part] + [""] * (len(line) - column - 1) for part in parts[1:]),
    ]


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def size(number: int) -> str:
    """Bytes as people read them.

    Example:
        >>> size(999), size(52_002_000)
        ('999 B', '52.0 MB')
    """
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= factor:
            return f"{number / factor:,.1f} {unit}"
    return f"{number} B"


def funnel(stages: Sequence[Mapping[str, Any]], ran: Sequence[str] | None = None) -> str:
    """The rows in, created, kept, dropped and failed of each stage, with the drop reasons.

    Args:
        stages: The entries of `history.status`.
        ran: Of a run, the stages that it computed: their times are shown, and how many rows
            were new. Without it the state of each stage is shown.
    """
    rows = []
    for s in stages:
        dropped = s["dropped"]
        numbers = [s["rows_in"], s["created"], s["kept"], sum(dropped.values()), s["failed"]]
        # A stage that makes files and no rows has nothing to count.
        counts = [_count(number) if any(numbers) else "" for number in numbers]
        timed = s["seconds"] is not None and (ran is None or s["name"] in ran)
        seconds = f"{s['seconds']:.1f} s" if timed else ""
        state = _state(s) if ran is None else what_ran(s, ran)
        rows.append([s["name"], s["uses"], *counts, seconds, state])
        for reason, number in sorted(dropped.items(), key=lambda item: -item[1]):
            rows.append([f"  {reason}", "", "", "", "", _count(number), "", "", ""])
    last = "state" if ran is None else "this run"
    header = ["stage", "uses", "in", "created", "kept", "dropped", "failed", "time", last]
    files = [f"{s['name']}: {s['files']}" for s in stages if s["files"]]
    text = table(header, rows, right=(2, 3, 4, 5, 6, 7), optional=(1, 7))
    waiting = waiting_lines(stages) if ran is None else []
    shown = [line for lines in (files, waiting) if lines for line in ("", *lines)]
    return "\n".join([text, *shown, *drift_warning(stages)])


def _state(entry: Mapping[str, Any]) -> str:
    return str(entry["state"]) + (", waiting" if entry.get("waiting") else "")


def cost_table(entries: Sequence[Mapping[str, Any]]) -> str:
    """What was paid, by stage and model; empty where nothing was.

    Args:
        entries: What `pipeline.models.journal.costs.costs` returns.
    """
    if not entries:
        return ""
    text = table(HEADER, list(cost_rows(entries)), right=RIGHT, optional=(4, 6))
    return "\n".join(filter(None, [text, in_flight_note(entries)]))


def what_ran(entry: Mapping[str, Any], ran: Sequence[str]) -> str:
    """What a run did for a stage: nothing, all of its rows, or the new ones.

    Args:
        entry: The stage's entry of `history.status`.
        ran: The stages that the run computed.
    """
    if entry["name"] not in ran:
        return "waiting" if entry.get("waiting") else "cached"
    total, computed = entry["rows_in"] + entry["created"], entry["computed"]
    return f"ran {computed:,} rows" if 0 < computed < total else "ran"


def drift_warning(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """What changed under its version, where anything did: an empty line and a warning."""
    drifted = sorted({e["uses"] for e in entries if e["drifted"]})
    if not drifted:
        return []
    text = (
        f"warning: the code of {', '.join(drifted)} changed under the same version; run refuses "
        "until the version is raised or --accept-code is given"
    )
    return ["", *textwrap.wrap(text, width(), break_on_hyphens=False)]


def estimates(
    planned_steps: Sequence[PlannedStep],
    expected: Mapping[str, Estimate],
    waiting: Mapping[str, Sequence[Mapping[str, Any]]] = {},
) -> list[Any]:
    """The plan with the estimate of each step, as JSON values.

    Args:
        planned_steps: The plan.
        expected: What `estimate_steps` returns for it.
        waiting: The batches that steps wait for; see `pipeline.models.journal.waiting`.
    """
    return [
        {
            "name": planned.step.name,
            "uses": planned.step.stage.name,
            "state": planned.state,
            "fingerprint": planned.fingerprint,
            "causes": planned.causes,
            "drifted": planned.drifted,
            "preview": planned.step.stage.preview(planned.options),
            "waiting": waiting.get(planned.step.name, []),
            **asdict(expected[planned.step.name]),
        }
        for planned in planned_steps
    ]


def plan_totals(expected: Mapping[str, Estimate]) -> dict[str, dict[str, Any]]:
    """What all stages use together, as JSON values: `expected`, `at_most` and `journal`.

    Args:
        expected: What `estimate_steps` returns.
    """
    return asdict(total(list(expected.values())))


def plan_table(
    entries: Sequence[Mapping[str, Any]],
    totals: Mapping[str, Any],
    currency: str = DEFAULT_CURRENCY,
) -> str:
    """States and causes, with the estimated requests, tokens and money.

    Args:
        entries: What `estimates` returns.
        totals: What `plan_totals` returns.
        currency: That of the money.
    """
    priced = totals["expected"]["money"] is not None
    rows = []
    for e in entries:
        numbers = _numbers(e, totals)[: 4 if priced else 3]
        known = [f"{e['journal']:,} more requests are in the journal"] if e["journal"] else []
        batches = [one["text"] for one in e.get("waiting", ())]
        first, *more = [*e["causes"], *batches, *known] or [""]
        rows.append([e["name"], e["uses"], e["state"], *numbers, first])
        rows += [["", "", "", *("" for _ in numbers), cause] for cause in more]
    if any(row[4] for row in rows):
        numbers = _numbers(totals, totals)
        rows.append(["total", "", "", *numbers[: 4 if priced else 3], ""])
    money = [currency] if priced else []
    header = ["stage", "uses", "state", "rows", "requests", "tokens", *money, "why"]
    right = range(3, len(header) - 1)
    empty = [i for i in right if not any(row[i] for row in rows)]
    text = table(
        *_without(empty, header, rows), right=right[: len(right) - len(empty)], optional=[1]
    )
    waiting = sum(e["state"] != "cached" for e in entries)
    end = "" if waiting else ": nothing to do"
    count = f"{waiting} of {len(entries)} stages to run{end}"
    previews = [f"{e['name']}: {line}" for e in entries for line in e["preview"]]
    shown = ["", *previews] if previews else []
    return "\n".join(
        [text, *shown, *drift_warning(entries), "", count, *_expectation(totals, currency)]
    )


def _expectation(totals: Mapping[str, Any], currency: str) -> list[str]:
    """What is expected where the table shows bounds that are further away."""
    expected, at_most = totals["expected"], totals["at_most"]
    if not expected["requests"] or expected == at_most or at_most["requests"] is None:
        return []
    units = {"requests": "requests", "tokens": "tokens", "money": currency}
    shown = [f"{_amount(expected[u])} {name}" for u, name in units.items() if expected[u]]
    return ["expected: " + ", ".join(shown)]


def _without(
    columns: Sequence[int], header: Sequence[str], rows: Sequence[Sequence[str]]
) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of a table without some columns."""
    first, *others = [
        [cell for i, cell in enumerate(line) if i not in columns] for line in (header, *rows)
    ]
    return first, others


def _numbers(entry: Mapping[str, Any], totals: Mapping[str, Any]) -> list[str]:
    """Rows, requests, tokens and money of an entry: bounds with `<=`, else what is expected.

    Where the total is a bound, so is each number that adds to it.
    """
    cells = []
    for unit, limit in entry["at_most"].items():
        expected = entry["expected"][unit]
        of_total = _is_bound(totals, unit) and limit != expected
        if limit and (_is_bound(entry, unit) or of_total):
            cells.append(f"<= {_amount(limit)}")
        else:
            cells.append(_amount(expected))
        if entry["unknown"] and unit != "rows":
            cells[-1] = f"{cells[-1]} + ?" if cells[-1] else "?"
    return cells


def _is_bound(entry: Mapping[str, Any], unit: str) -> bool:
    """Whether an entry's number is the most that there may be."""
    return bool(entry["all_kept"] or (unit in ("tokens", "money") and entry["longest"]))


def _amount(value: float | None) -> str:
    return amount(value) if isinstance(value, float) else _count(value)


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
    history = recipe.history(planned.parts)
    before = store.latest(history, planned.step.name, other_than=planned.fingerprint)
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
            if key not in ("stage", "uses", "verdict", "named") and not repeated:
                lines.append(f"  {key}: {_short(value)}")
                shown[key] = value
        lines += [f"  {name}: {_short(text)}" for name, text in event.get("named", {}).items()]
    return "\n".join(lines)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split())
    if len(text) <= MAX_SHOWN:
        return text
    return f"{text[:MAX_SHOWN]}... ({len(text):,} characters)"
