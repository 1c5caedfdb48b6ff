"""What the commands do and print. Answers go to standard output, progress and errors to the other.

Exit codes are those of `errors.Exit`. A `UserError` ends a command with its text
alone; whatever else is raised is a bug and keeps its traceback.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec

from pipeline.cli import tables
from pipeline.errors import Exit, UserError
from pipeline.execution import history
from pipeline.execution.estimate import budget_warnings, comparison, estimate_steps
from pipeline.execution.plan import check
from pipeline.execution.plan import plan as make_plan
from pipeline.execution.progress import watch
from pipeline.recipe.recipe import Recipe
from pipeline.store.store import Store

Parameters = ParamSpec("Parameters")


def command(function: Callable[Parameters, int | None]) -> Callable[Parameters, None]:
    """Turn errors into what a person sees, and the result into an exit code."""

    @functools.wraps(function)
    def wrapped(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        try:
            code = function(*args, **kwargs)
            sys.stdout.flush()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            code = error.code
        except BrokenPipeError:
            # The reader of our output (a pager, head) has gone; that is no error.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = Exit.DONE
        except KeyboardInterrupt:
            print("\ninterrupted", file=sys.stderr)
            code = Exit.INTERRUPTED
        sys.exit(int(code or Exit.DONE))

    return wrapped


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False))


def _open(recipe: str, store: str, overrides: Sequence[str]) -> tuple[Recipe, Store]:
    _quiet_libraries()
    return Recipe.load(recipe, overrides), Store(Path(store))


def _quiet_libraries() -> None:
    """Progress is ours to show; the libraries' own bars would break into it."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@command
def run(
    recipe: str,
    stages: list[str],
    store: str,
    overrides: list[str],
    workers: int,
    accept_code: bool,
) -> int:
    """Run a recipe and show the funnel and the summaries of its reports."""
    from pipeline.execution.plan import select_steps
    from pipeline.execution.runner import Runner

    signal.signal(signal.SIGTERM, lambda *_: _interrupt())
    wired, opened = _open(recipe, store, overrides)
    # What is imported by now stays: the collector need not look through it again and again.
    gc.freeze()
    progress = watch(len(select_steps(wired, stages)))
    runner = Runner(wired, opened, progress, workers or os.cpu_count() or 1, accept_code)
    try:
        code = runner.run(stages)
    except KeyboardInterrupt:
        again = shlex.join(["python", "-m", "pipeline", *sys.argv[1:]])
        print(f"\ninterrupted; what is done is kept. Go on with:\n  {again}", file=sys.stderr)
        return Exit.INTERRUPTED
    finally:
        progress.close()
        for line in comparison(runner.expected, runner.used):
            print(f"asked by {line}", file=sys.stderr)
    names = list(runner.outputs.artifacts)
    shown = [s for s in history.status(wired, opened)["stages"] if s["name"] in names]
    print(tables.funnel(shown))
    for text in history.summaries(list(runner.outputs.artifacts.values())):
        print("\n" + text.rstrip())
    if code is Exit.ROWS_FAILED:
        told = ", ".join(s["name"] for s in shown if s["failed"])
        print(
            f"\nsome rows failed in: {told}\n"
            f"  try: python -m pipeline cat {recipe} {told.split(',')[0]} --failed --store {store}",
            file=sys.stderr,
        )
    return code


def _interrupt() -> None:
    raise KeyboardInterrupt


@command
def show_plan(
    recipe: str, stages: list[str], store: str, overrides: list[str], as_json: bool
) -> None:
    """Print states and causes."""
    wired, opened = _open(recipe, store, overrides)
    planned = make_plan(wired, opened, stages)
    check(planned)
    estimates = tables.estimates(wired, opened, planned)
    if as_json:
        _print_json({"recipe": wired.name, "stages": estimates})
    else:
        print(tables.plan_table(estimates))
        for warning in budget_warnings(wired, estimate_steps(wired, opened, planned)):
            print(f"warning: {warning}")


@command
def show_status(recipe: str, store: str, overrides: list[str], as_json: bool) -> None:
    """Print the funnel with states."""
    status = history.status(*_open(recipe, store, overrides))
    if as_json:
        _print_json(status)
    else:
        print(tables.funnel(status["stages"]))


@command
def show_why(recipe: str, stage: str, store: str, overrides: list[str], as_json: bool) -> None:
    """Print what changed for one stage, and for those before it while it is unknown."""
    wired, opened = _open(recipe, store, overrides)
    answer = tables.reasons(wired, opened, stage)
    if as_json:
        _print_json(answer)
    else:
        for told in answer["stages"]:
            print(f"{told['name']} ({told['uses']}) is {told['state']}")
            for cause in told["causes"]:
                print(f"  {cause}")


@command
def show_way(recipe: str, record: str, store: str, overrides: list[str], as_json: bool) -> None:
    """Print a record's way."""
    way = history.explain(*_open(recipe, store, overrides), record)
    if as_json:
        _print_json(way)
    else:
        print(tables.way(way))


@command
def show_rows(
    recipe: str,
    stage: str,
    store: str,
    overrides: list[str],
    dropped: bool,
    failed: bool,
    output: str | None,
) -> None:
    """Print or save rows."""
    if dropped and failed:
        raise UserError("--dropped and --failed exclude each other")
    part = "dropped" if dropped else "failed" if failed else "kept"
    frame = history.rows(*_open(recipe, store, overrides), stage, part)
    if output:
        history.save(frame, output)
    elif len(frame):
        sys.stdout.write(frame.write_ndjson())


@command
def show_stages(name: str | None, as_json: bool) -> int:
    """Print the stages' own documentation; a broken one is reported and hides no other."""
    from pipeline.recipe.discovery import available, find

    described, errors = [], []
    for stage_name in [name] if name else available():
        try:
            described.append(tables.stage_entry(find(stage_name)))
        except UserError as broken:
            errors.append(broken)
    if as_json:
        _print_json(described)
    elif name and described:
        print(tables.stage_page(described[0]))
    elif described:
        print(tables.stage_list(described))
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    return Exit.MISTAKE if errors else Exit.DONE


@command
def journal(verb: str, file: str | None, store: str, as_json: bool) -> None:
    """Count, check, hand over or take in the store's journal."""
    from pipeline.models.journal import export
    from pipeline.models.journal.journal import Journal, journal_in

    found = Journal(Path(store) / "journal") if verb == "import" else journal_in(Path(store))
    if found is None:
        raise UserError("the store has no journal: no language model was asked", where=store)
    if verb == "stats":
        told = export.stats(found)
        if as_json:
            _print_json(told)
            return
        header = ["model", "requests", "prompt tokens", "answer tokens", "cut", "answered again"]
        print(tables.table(header, list(export.stats_rows(told)), right=(1, 2, 3, 4, 5)))
        print(f"\n{told['requests']:,} requests, {told['bytes'] / 2**20:,.1f} MiB")
    elif verb == "verify":
        print(f"{export.verify(found):,} entries, all of them whole")
    elif verb == "export":
        print(f"{export.export(found, Path(str(file))):,} entries written to {file}")
    else:
        new, known = export.import_entries(found, Path(str(file)))
        print(f"{new:,} entries taken in, {known:,} were there before")


@command
def doctor(store: str) -> int:
    """Print what was found, and exit 2 when something needed is missing."""
    from pipeline.cli.doctor import examine

    findings = examine(Path(store))
    for finding in findings:
        print(f"{'ok ' if finding.fine else 'NO '} {finding.what}")
        if finding.mend:
            print(f"      {finding.mend}")
    return Exit.DONE if all(finding.fine for finding in findings) else Exit.MISTAKE
