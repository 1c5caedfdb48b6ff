"""The verbs `run` and `plan`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.app import (
    STORE,
    AsJson,
    Overrides,
    Profile,
    RecipeName,
    StoreFolder,
    app,
    load,
    print_json,
    verb,
)
from pipeline.errors import Exit, program

if TYPE_CHECKING:
    from pipeline.recipe.recipe import Recipe
    from pipeline.releases.unbundle import OpenedBundle
    from pipeline.store.store import Store

Targets = Annotated[
    list[str] | None,
    typer.Argument(metavar="STAGE", help="Stages to run up to; all of them by default."),
]


@verb(app)
def run(
    recipe: RecipeName,
    stages: Targets = None,
    store: StoreFolder = STORE,
    profile: Profile = None,
    overrides: Overrides = [],  # noqa: B006
    workers: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Processes for row-wise stages; by default one per core.",
            show_default=False,
        ),
    ] = 0,
    accept_code: Annotated[
        bool,
        typer.Option("--accept-code", help="Reuse artifacts although the stage's code changed."),
    ] = False,
    trust: Annotated[
        bool, typer.Option("--trust", help="Run the code that a bundle brings with it.")
    ] = False,
) -> int:
    """Run what is missing, up to the named stages; a bundle FILE.zip is rebuilt."""
    import gc
    import os
    import shlex
    import signal
    import sys

    from pipeline.cli import bundles, tables
    from pipeline.execution import history
    from pipeline.execution.actual_usage import comparison
    from pipeline.execution.plan import select_steps
    from pipeline.execution.progress import watch
    from pipeline.execution.runner import Runner
    from pipeline.execution.snapshot import Snapshot

    signal.signal(signal.SIGTERM, lambda *_: _interrupt())
    loaded, opened, bundle = _loaded(recipe, store, overrides, profile, trust)
    # What is imported by now stays: the collector need not look through it again and again.
    gc.freeze()
    progress = watch([step.name for step in select_steps(loaded, stages or [])])
    runner = Runner(loaded, opened, progress, workers or os.cpu_count() or 1, accept_code)
    try:
        code = runner.run(stages or [])
    except KeyboardInterrupt:
        progress.close()
        again = f"{program()} {shlex.join(sys.argv[1:])}"
        print(f"\ninterrupted; finished work is kept. Go on with:\n  {again}", file=sys.stderr)
        return Exit.INTERRUPTED
    finally:
        progress.close()
        for line in comparison(runner.expected, runner.used, runner.stopped, loaded.currency):
            print(f"requests of {line}", file=sys.stderr)
    names = list(runner.outputs.artifacts)
    current = history.status(Snapshot.of_recipe(loaded, opened))
    entries = [s for s in current["stages"] if s["name"] in names]
    print(tables.funnel(entries, runner.ran))
    for text in history.summaries(list(runner.outputs.artifacts.values())):
        print("\n" + text.rstrip())
    if runner.ran and not bundle:
        print(f"\nas a page: {loaded.command('report', store=store)}", file=sys.stderr)
    if bundle:
        code = bundles.report(bundle, runner.outputs.artifacts, code)
    if code is Exit.ROWS_FAILED:
        failed = [s["name"] for s in entries if s["failed"]]
        hint = loaded.command("cat", failed[0], "--failed", store=store)
        print(f"\nsome rows failed in: {', '.join(failed)}\n  try: {hint}", file=sys.stderr)
    return code


def _loaded(
    recipe: str, store: Path, overrides: list[str], profile: str | None, trust: bool
) -> tuple[Recipe, Store, OpenedBundle | None]:
    """The recipe and the store; of a bundle also what it expects."""
    from pipeline.cli import bundles

    if recipe.endswith(bundles.SUFFIX):
        bundle, opened = bundles.load(recipe, store, overrides, profile, trust)
        return bundle.recipe, opened, bundle
    return *load(recipe, store, overrides, profile), None


def _interrupt() -> None:
    raise KeyboardInterrupt


@verb(app)
def plan(
    recipe: RecipeName,
    stages: Targets = None,
    store: StoreFolder = STORE,
    profile: Profile = None,
    overrides: Overrides = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Show what would run and why; run nothing."""
    import sys

    from pipeline.cli import tables
    from pipeline.execution.estimate import counting_notes, estimate_steps
    from pipeline.execution.plan import check
    from pipeline.execution.plan import plan as make_plan
    from pipeline.execution.spending import budget_warnings, trackers

    loaded, opened = load(recipe, store, overrides, profile)
    planned = make_plan(loaded, opened, stages or [])
    check(planned)
    for note in counting_notes(planned):
        print(f"note: {note}", file=sys.stderr)
    expected = estimate_steps(loaded, opened, planned)
    entries, totals = tables.estimates(planned, expected), tables.plan_totals(expected)
    if as_json:
        currency = {"currency": loaded.currency}
        print_json({"recipe": loaded.name, **currency, "stages": entries, "total": totals})
    else:
        print(tables.plan_table(entries, totals, loaded.currency))
        for warning in budget_warnings(trackers(loaded, opened), expected):
            print(f"warning: {warning}")
