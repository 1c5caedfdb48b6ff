"""The verb `diff`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from pipeline.cli.app import (
    STORE,
    AsJson,
    Overrides,
    Profile,
    StoreFolder,
    app,
    print_json,
    snapshot,
    verb,
)
from pipeline.errors import UserError, program

if TYPE_CHECKING:
    from pipeline.execution.snapshot import Snapshot

SHOWN: Final = 12
"""Lines of a table that are printed; `--json` has all."""

SIGNIFICANT: Final = 0.05
"""Shifts with a larger p are left to `--json`."""

MAX_VALUE: Final = 60
"""Characters of an option's value that are printed."""

PARTS: Final = {
    "stages": ("stage", "before", "after"),
    "options": ("stage", "option", "before", "after"),
    "models": ("stage", "model", "before", "after"),
    "prompts": ("stage", "prompt", "before", "after"),
    "sources": ("stage", "uses", "before", "after", "failed_before", "failed_after"),
}
"""The settings that are shown, with their columns."""


@verb(app)
def diff(
    before: Annotated[
        str, typer.Argument(metavar="A", help="A release, NAME@VERSION or NAME; or a recipe.")
    ],
    after: Annotated[
        str | None,
        typer.Argument(
            metavar="B",
            help="A release, or a recipe as it is now. Without it, A is compared with the release "
            "before it, and a recipe with its latest release.",
        ),
    ] = None,
    store: StoreFolder = STORE,
    profile: Profile = None,
    overrides: Overrides = [],  # noqa: B006
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Write a page (FILE.html), or every row with what did it (.jsonl, .parquet, ...).",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what differs between two releases, or a release and now, and which stage did it."""
    from pipeline.cli.report import PAGES, check_page, write_page
    from pipeline.execution.save_rows import save
    from pipeline.releases import diff as differences
    from pipeline.releases.plugins import plugin

    is_page = output is not None and output.endswith(PAGES)
    if output is not None and is_page:
        check_page(Path(output))
    old, new = _sides(before, after, store, overrides, profile)
    _note_stale(new)
    if output is None or as_json:
        result = differences.diff(old, new)
        if as_json:
            print_json(result)
        else:
            print(_page(result))
    if output is None:
        return
    if is_page:
        write_page(Path(output), plugin("page")(new, old))
    else:
        save(differences.changed_rows(old, new), output)
    print(f"written: {output}", file=sys.stderr)


def _sides(
    before: str, after: str | None, store: Path, overrides: list[str], profile: str | None
) -> tuple[Snapshot, Snapshot]:
    """The two snapshots to compare.

    Raises:
        UserError: One is not there, or there is no earlier release to compare with.
    """
    from pipeline.execution.snapshot import Snapshot
    from pipeline.store.releases import latest, read_release

    if after is not None:
        first, second = (_side(name, store, overrides, profile) for name in (before, after))
        return first, second
    now = snapshot(before, store, overrides, profile)
    if now.release is None:
        name, earlier = now.title, latest(now.store, now.title)
    else:
        name, parent = now.release["name"], now.release["parent"]
        earlier = read_release(now.store, f"{name}@{parent}") if parent else None
    if earlier is None:
        what = f"{now.title} has no earlier release to be compared with"
        raise UserError(what, hint=f"{program()} diff A B compares any two")
    return Snapshot.of_release(now.store, earlier), now


def _side(reference: str, store: Path, overrides: list[str], profile: str | None) -> Snapshot:
    """A snapshot; overrides and profile change a recipe, and not the release beside it."""
    from pipeline.execution.snapshot import release_named
    from pipeline.store.store import Store

    is_release = release_named(Store(store), reference) is not None
    changes = ([], None) if is_release else (overrides, profile)
    return snapshot(reference, store, *changes)


def _note_stale(shown: Snapshot) -> None:
    """Say where the rows of now are not those that a run would give."""
    waiting = [stage.name for stage in shown.stages.values() if stage.state != "cached"]
    if shown.recipe and waiting:
        names = ", ".join(waiting[:5]) + (", ..." if len(waiting) > 5 else "")
        print(
            f"note: {names} would run anew: {shown.title} is shown as it ran last", file=sys.stderr
        )


def _page(result: Mapping[str, Any]) -> str:
    """All differences as tables; what did not change is left out."""
    from pipeline.cli import tables

    counts = result["rows"]
    lines = [
        f"{result['before']} ({counts['before']:,} rows) -> "
        f"{result['after']} ({counts['after']:,} rows)",
        f"  {counts['added']:,} added, {counts['removed']:,} removed, {counts['unchanged']:,} "
        f"unchanged, {counts['changed']:,} changed (the same prompt, another answer)",
    ]
    for title, header, rows, right in _tables(result):
        if rows:
            more = f"... and {len(rows) - SHOWN} more (--json)" if len(rows) > SHOWN else ""
            lines += ["", title, tables.table(header, rows[:SHOWN], right=right)]
            lines += [more] if more else []
    return "\n".join(lines)


def _tables(
    result: Mapping[str, Any],
) -> Iterator[tuple[str, list[str], list[list[str]], Sequence[int]]]:
    """Title, header, cells and columns set flush right of each part."""
    causes = [[c["change"], f"{c['rows']:,}", c["stage"], c["reason"]] for c in result["causes"]]
    yield "What did it", ["change", "rows", "stage", "reason"], causes, (1,)
    shifts = [
        [
            " = ".join(filter(None, [s["column"], s["category"]])),
            _number(s["before"]),
            _number(s["after"]),
            f"{s['p']:.2g}",
            s["test"],
        ]
        for s in result["shifts"]
        if s["p"] < SIGNIFICANT
    ]
    header = ["median or share", "before", "after", "p", "test"]
    yield "What shifted (p < 0.05 after Holm)", header, shifts, (1, 2, 3)
    for part, names in PARTS.items():
        rows = [[_short(line[name]) for name in names] for line in result[part]]
        yield part.capitalize(), list(names), rows, ()
    examples = [
        [e["change"], e["id"][:8], " => ".join(filter(None, [e["prompt"], *_answers(e)]))]
        for e in result["examples"]
    ]
    yield "Examples", ["change", "id", "text"], examples, ()


def _answers(example: Mapping[str, Any]) -> list[str]:
    """The answers of a changed row, before and now: of other rows the prompt says enough."""
    changed = example["change"] == "changed"
    return [example["answer_before"], example["answer"]] if changed else []


def _number(value: float) -> str:
    return f"{value:,.4g}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]}..."
