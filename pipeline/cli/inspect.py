"""The verbs that read: status, why, explain, cat, stages, doctor."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Literal

import typer

from pipeline.cli.app import (
    STORE,
    AsJson,
    Limit,
    Overrides,
    Profile,
    RecipeName,
    RecipeOrRelease,
    StageName,
    StoreFolder,
    app,
    load,
    print_json,
    snapshot,
    verb,
)
from pipeline.errors import Exit, UserError


@verb(app)
def status(
    recipe: RecipeOrRelease,
    store: StoreFolder = STORE,
    profile: Profile = None,
    overrides: Overrides = [],  # noqa: B006
    limit: Limit = None,
    as_json: AsJson = False,
) -> None:
    """Show the state and row counts of every stage, and what it cost."""
    from pipeline.cli import tables
    from pipeline.execution import history

    entries = history.status(snapshot(recipe, store, overrides, profile, limit))
    if as_json:
        print_json(entries)
    else:
        print(tables.funnel(entries["stages"]))
        if paid := tables.cost_table(entries["costs"]):
            print(f"\npaid by all runs:\n{paid}")


@verb(app)
def why(
    recipe: RecipeName,
    stage: StageName,
    store: StoreFolder = STORE,
    profile: Profile = None,
    overrides: Overrides = [],  # noqa: B006
    limit: Limit = None,
    as_json: AsJson = False,
) -> None:
    """Show what changed in a stage since its last artifact."""
    from pipeline.cli import tables

    reasons = tables.reasons(*load(recipe, store, overrides, profile, limit), stage)
    if as_json:
        print_json(reasons)
    else:
        for entry in reasons["stages"]:
            print(f"{entry['name']} ({entry['uses']}) is {entry['state']}")
            for cause in entry["causes"]:
                print(f"  {cause}")


@verb(app)
def explain(
    recipe: RecipeOrRelease,
    record: Annotated[str, typer.Argument(metavar="ID", help="A record's id, or its beginning.")],
    store: StoreFolder = STORE,
    profile: Profile = None,
    overrides: Overrides = [],  # noqa: B006
    limit: Limit = None,
    as_json: AsJson = False,
) -> None:
    """Show the history of one record through all stages."""
    from pipeline.cli import tables
    from pipeline.execution import history

    events = history.explain(snapshot(recipe, store, overrides, profile, limit), record)
    if as_json:
        print_json(events)
    else:
        print(tables.record_history(events))


@verb(app)
def cat(
    recipe: RecipeOrRelease,
    stage: StageName,
    store: StoreFolder = STORE,
    profile: Profile = None,
    overrides: Overrides = [],  # noqa: B006
    limit: Limit = None,
    dropped: Annotated[bool, typer.Option("--dropped", help="The rows that it dropped.")] = False,
    failed: Annotated[bool, typer.Option("--failed", help="The rows that failed in it.")] = False,
    output: Annotated[
        str | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="Write FILE.parquet, .jsonl, .csv or .xlsx."
        ),
    ] = None,
    table: Annotated[
        bool, typer.Option("--table", help="For reading: long texts cut, evidence beside the row.")
    ] = False,
) -> None:
    """Print the rows of a stage with all their columns."""
    from pipeline.execution.json_rows import json_lines

    if dropped and failed:
        raise UserError("--dropped and --failed exclude each other")
    if table and output is not None:
        raise UserError("--table and --output exclude each other")
    part: Literal["kept", "dropped", "failed"]
    part = "dropped" if dropped else "failed" if failed else "kept"
    current = snapshot(recipe, store, overrides, profile, limit)
    frame = current.rows(stage, part)
    if output is not None:
        from pipeline.execution.save_rows import save

        for note in save(frame, output):
            print(f"warning: {note}", file=sys.stderr)
    elif table:
        from pipeline.cli.row_cards import print_cards
        from pipeline.execution.row_parts import rows_in_parts

        print_cards(rows_in_parts(frame, current.artifacts.values()), len(frame))
    else:
        sys.stdout.writelines(json_lines(frame))


@verb(app)
def stages(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="A family to list, or a stage to document in full."),
    ] = None,
    prompts: Annotated[
        bool, typer.Option("--prompts", help="Their prompts: names, variables and texts.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """List all stages or those of a family, or document one with its options or its prompts."""
    from pipeline.cli.stage_docs import prompt_entries, prompts_page, stage_entry, stage_list
    from pipeline.cli.stage_docs import stage_page as page
    from pipeline.recipe.discovery import available, find

    sys.path.append(os.getcwd())  # a stage of the user's own may lie where they stand
    entries, problems = [], []
    listed = [stage for stage in available() if name in (None, stage.partition(".")[0])]
    for stage_name in listed or [name or ""]:
        try:
            stage = find(stage_name)
            entries += prompt_entries(stage) if prompts else [stage_entry(stage)]
        except UserError as error:  # a broken stage hides no other
            problems.append(error)
    if as_json:
        print_json(entries)
    elif prompts and not problems:
        print(prompts_page(entries))
    elif entries:
        print(stage_list(entries) if listed else page(entries[0]))
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return Exit.MISTAKE if problems else Exit.DONE


@verb(app)
def doctor(
    store: StoreFolder = STORE,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read the whole store: every byte against its digest.")
    ] = False,
) -> int:
    """Check this machine, and say how to fix what is missing."""
    from pipeline.cli.doctor import examine

    passed = True
    for finding in examine(store, deep):
        passed = passed and finding.passed
        print(f"{'ok ' if finding.passed else 'NO '} {finding.what}")
        if finding.fix:
            print(f"      {finding.fix}")
    return Exit.DONE if passed else Exit.MISTAKE
