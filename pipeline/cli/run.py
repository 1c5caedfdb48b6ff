"""The verbs `run` and `plan`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.app import (
    STORE,
    AsJson,
    Limit,
    Overrides,
    Profile,
    RecipeName,
    StoreFolder,
    app,
    load,
    print_json,
    verb,
)
from pipeline.errors import Exit, UserError, program

if TYPE_CHECKING:
    from pipeline.execution.plan import PlannedStep
    from pipeline.execution.runner import Runner
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
    limit: Limit = None,
    partial: Annotated[
        bool,
        typer.Option(
            "--partial",
            help="Go on with what came once a budget is reached; the next run asks the rest.",
        ),
    ] = False,
    workers: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Processes for row-wise stages; by default one per core.",
            show_default=False,
        ),
    ] = 0,
    on: Annotated[
        str | None,
        typer.Option(
            metavar="WHERE",
            help="Compute row-wise stages on a cluster: ray, ray://HOST:PORT or slurm.",
            show_default=False,
        ),
    ] = None,
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

    from pipeline.cli import bundles
    from pipeline.execution.actual_usage import comparison
    from pipeline.execution.backends.named import backend_named
    from pipeline.execution.plan import select_steps
    from pipeline.execution.progress import watch
    from pipeline.execution.runner import Runner

    signal.signal(signal.SIGTERM, lambda *_: _interrupt())
    loaded, opened, bundle = _loaded(recipe, store, overrides, profile, limit, trust)
    # What is imported by now stays: the collector need not look through it again and again.
    gc.freeze()
    progress = watch([step.name for step in select_steps(loaded, stages or [])])
    workers = workers or os.cpu_count() or 1
    backend = backend_named(on, workers)
    runner = Runner(
        loaded, opened, progress, workers, accept_code, partial=partial, backend=backend
    )
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
    _print_results(loaded, opened, runner)
    if limit is None and runner.ran and not bundle:
        print(f"\nas a page: {loaded.command('report', store=store)}", file=sys.stderr)
    if bundle:
        code = bundles.report(bundle, runner.outputs.artifacts, code)
    for line in _follow_up(loaded, runner, code):
        print(f"\n{line}", file=sys.stderr)
    return code


def _print_results(recipe: Recipe, store: Store, runner: Runner) -> None:
    """The funnel of the steps of a run, and what reports say."""
    from pipeline.cli import tables
    from pipeline.execution import history
    from pipeline.execution.snapshot import Snapshot

    names = [*runner.outputs.artifacts, *runner.waiting]
    current = history.status(Snapshot.of_recipe(recipe, store))
    entries = [
        {**s, "waiting": s["waiting"] or s["name"] in runner.waiting}
        for s in current["stages"]
        if s["name"] in names
    ]
    print(tables.funnel(entries, runner.ran))
    for text in history.summaries(list(runner.outputs.artifacts.values())):
        print("\n" + text.rstrip())


def _follow_up(recipe: Recipe, runner: Runner, code: Exit) -> Iterator[str]:
    """What a user may want to know or do after a run."""
    from pipeline.models.budget import NOT_ASKED

    artifacts, store = runner.outputs.artifacts, runner.store.root
    if recipe.limit is not None:
        limited = [name for name in artifacts if recipe.steps[name].limit is not None]
        hint = recipe.command("cat", (limited or [*artifacts])[0], "--table", store=store)
        yield f"a preview of {recipe.limit:,} rows, which no release has\n  try: {hint}"
    for name, waiting in runner.waiting.items():
        yield f"{name}: {waiting.what}\n  because: {waiting.why}"
    if runner.waiting:
        hint = recipe.command("run", store=store)
        yield f"run again later; nothing is sent twice\n  try: {hint}"
    if code is Exit.ROWS_FAILED:
        failed = [name for name, one in artifacts.items() if one.manifest["counts"]["failed"]]
        hint = recipe.command("cat", failed[0], "--failed", store=store)
        yield f"some rows failed in: {', '.join(failed)}\n  try: {hint}"
    if runner.not_asked:
        left = ", ".join(f"{name}: {number:,}" for name, number in runner.not_asked.items())
        yield (
            f"the budget is reached: these requests were not sent ({left}), and their rows "
            f"failed as {NOT_ASKED}; the next run asks them"
        )


def _loaded(
    recipe: str,
    store: Path,
    overrides: list[str],
    profile: str | None,
    limit: int | None,
    trust: bool,
) -> tuple[Recipe, Store, OpenedBundle | None]:
    """The recipe and the store; of a bundle also what it expects."""
    from pipeline.cli import bundles

    if recipe.endswith(bundles.SUFFIX):
        if limit is not None:
            raise UserError("a bundle is rebuilt whole: it takes no --limit")
        bundle, opened = bundles.load(recipe, store, overrides, profile, trust)
        return bundle.recipe, opened, bundle
    return *load(recipe, store, overrides, profile, limit), None


def _interrupt() -> None:
    raise KeyboardInterrupt


@verb(app)
def plan(
    recipe: RecipeName,
    stages: Targets = None,
    store: StoreFolder = STORE,
    profile: Profile = None,
    overrides: Overrides = [],  # noqa: B006
    limit: Limit = None,
    show: Annotated[
        bool,
        typer.Option(
            "--show", help="Print one rendered prompt of each stage that asks a model instead."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what would run and why; run nothing."""
    import sys

    from pipeline.cli import tables
    from pipeline.execution.estimate import counting_notes, estimate_steps, key_notes
    from pipeline.execution.plan import check
    from pipeline.execution.plan import plan as make_plan
    from pipeline.execution.spending import budget_warnings, trackers
    from pipeline.models.journal.waiting import waiting_in
    from pipeline.recipe.prompts import prompt_notes

    loaded, opened = load(recipe, store, overrides, profile, limit)
    planned = make_plan(loaded, opened, stages or [])
    check(planned)
    notes = [*prompt_notes([p.step.stage for p in planned]), *counting_notes(planned)]
    for note in [*notes, *key_notes(planned)]:
        print(f"note: {note}", file=sys.stderr)
    if show:
        _show(loaded, planned, stages or [], as_json)
        return
    expected = estimate_steps(loaded, opened, planned)
    waiting = waiting_in(opened.root, loaded.name)
    entries, totals = tables.estimates(planned, expected, waiting), tables.plan_totals(expected)
    if as_json:
        currency = {"currency": loaded.currency}
        print_json({"recipe": loaded.name, **currency, "stages": entries, "total": totals})
    else:
        print(tables.plan_table(entries, totals, loaded.currency))
        for warning in budget_warnings(trackers(loaded, opened), expected):
            print(f"warning: {warning}")


def _show(
    recipe: Recipe, planned: Sequence[PlannedStep], stages: Sequence[str], as_json: bool
) -> None:
    """Print the first prompts of the stages that ask a model."""
    from dataclasses import asdict

    from pipeline.cli.prompt_pages import prompts_page
    from pipeline.execution.shown_prompts import shown_prompts

    prompts = shown_prompts(planned, stages)
    if as_json:
        print_json({"recipe": recipe.name, "prompts": [asdict(prompt) for prompt in prompts]})
    else:
        print(prompts_page(prompts))
