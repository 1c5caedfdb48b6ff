"""The verb `sample`: a few rows of a stage, as a person wants to read them."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from pipeline.cli.app import (
    STORE,
    Limit,
    Overrides,
    Profile,
    RecipeOrRelease,
    StageName,
    StoreFolder,
    app,
    snapshot,
    verb,
)
from pipeline.errors import UserError


@verb(app)
def sample(
    recipe: RecipeOrRelease,
    stage: StageName,
    number: Annotated[int, typer.Option("-n", metavar="N", min=1, help="How many rows.")] = 5,
    store: StoreFolder = STORE,
    profile: Profile = None,
    overrides: Overrides = [],  # noqa: B006
    limit: Limit = None,
    dropped: Annotated[bool, typer.Option("--dropped", help="The rows that it dropped.")] = False,
    failed: Annotated[bool, typer.Option("--failed", help="The rows that failed in it.")] = False,
    reason: Annotated[
        str | None,
        typer.Option(metavar="R", help="The rows that it dropped for this reason."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Another number, other rows.")] = 0,
    full: Annotated[bool, typer.Option("--full", help="Show long texts in full.")] = False,
) -> None:
    """Show a few rows of a stage, chosen at random but always the same ones."""
    from pipeline.cli.row_cards import print_cards
    from pipeline.execution.row_parts import rows_in_parts
    from pipeline.execution.sampled_rows import heading, sampled, with_reason

    if failed and (dropped or reason):
        raise UserError("--failed excludes --dropped and --reason")
    part: Literal["kept", "dropped", "failed"]
    part = "failed" if failed else "dropped" if dropped or reason else "kept"
    current = snapshot(recipe, store, overrides, profile, limit)
    rows = current.rows(stage, part)
    if reason is not None:
        rows = with_reason(rows, reason, stage)
    chosen = sampled(rows, number, seed)
    # The heading goes before the rows on the same stream, so that a pager shows it.
    print(heading(len(chosen), len(rows), stage, part, reason))
    print_cards(rows_in_parts(chosen, current.artifacts.values(), full), len(chosen))
