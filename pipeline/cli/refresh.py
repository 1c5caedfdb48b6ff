"""The verbs `refresh` and `schedule`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import DEFAULT_STORE, ROOT
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
from pipeline.errors import Exit, UserError

if TYPE_CHECKING:
    from pipeline.recipe.recipe import Recipe
    from pipeline.releases.refresh_log import Refreshed
    from pipeline.releases.schedule import Every


@verb(app)
def refresh(
    recipe: RecipeName,
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
    as_json: AsJson = False,
) -> int:
    """Run what is new in the sources, release it, publish it: one command for a scheduler."""
    import os
    import signal

    from pipeline.execution.progress import watch
    from pipeline.releases.refresh import refresh as bring_up_to_date
    from pipeline.store.store import Store

    signal.signal(signal.SIGTERM, lambda *_: _interrupt())
    result = bring_up_to_date(
        recipe,
        Store(store),
        lambda: load(recipe, store, overrides, profile)[0],
        lambda loaded: watch([*loaded.steps]),
        workers or os.cpu_count() or 1,
    )
    if as_json:
        print_json({**vars(result), "code": int(result.code)})
    else:
        print(_mail(result))
    return result.code


def _interrupt() -> None:
    raise KeyboardInterrupt


def _mail(result: Refreshed) -> str:
    """At most ten lines that say what happened, for a terminal or a mail."""
    lines = [f"{result.recipe}: {result.outcome}"]
    lines += [f"  {line.strip()}" for line in result.why[:4]]
    lines += [f"  ... and {len(result.why) - 4} more"] if len(result.why) > 4 else []
    if result.rows:
        counts = [f"{number:,} {name}" for name, number in result.rows.items() if name != "before"]
        lines.append(f"rows: {', '.join(counts)}")
    lines += [
        f"  {c['rows']:,} {c['change']}: {c['reason']} ({c['stage']})" for c in result.causes[:2]
    ]
    if result.release:
        where = f", published at {result.published}" if result.published else ""
        lines.append(f"release: {result.release}{where}")
    used = [f"{result.used[name]:,} {name}" for name in ("requests",) if result.used.get(name)]
    code = f", exit code {int(result.code)}" if result.code is not Exit.DONE else ""
    lines.append(f"took {result.seconds:,.1f} s{', ' if used else ''}{', '.join(used)}{code}")
    return "\n".join(lines)


@verb(app)
def schedule(
    recipe: RecipeName,
    hourly: Annotated[bool, typer.Option("--hourly")] = False,
    daily: Annotated[bool, typer.Option("--daily")] = False,
    weekly: Annotated[bool, typer.Option("--weekly", help="By default.")] = False,
    monthly: Annotated[bool, typer.Option("--monthly")] = False,
    form: Annotated[
        str,
        typer.Option(
            metavar="FORM",
            help="cron (a line of a crontab), systemd (service and timer) or github (a workflow).",
        ),
    ] = "cron",
    store: StoreFolder = STORE,
    profile: Profile = None,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Print a schedule that refreshes a recipe: a crontab line, a systemd timer, a workflow."""
    from pipeline.releases.schedule import FORMS, Moment
    from pipeline.releases.schedule import schedule as text_of

    flags: dict[Every, bool]
    flags = {"hourly": hourly, "daily": daily, "weekly": weekly, "monthly": monthly}
    chosen = [name for name, is_chosen in flags.items() if is_chosen]
    if len(chosen) > 1:
        raise UserError(f"schedule takes one of --{', --'.join(chosen)}")
    if form not in FORMS:
        raise UserError(f"--form must be {', '.join(FORMS)}, got {form!r}")
    loaded, _ = load(recipe, store, overrides, profile)
    words = [_named(loaded, form), *(["--profile", profile] if profile else [])]
    words += [word for override in overrides for word in ("--set", override)]
    if store.resolve() != DEFAULT_STORE and form != "github":
        words += ["--store", str(store.resolve())]
    moment = Moment.of(loaded.name, chosen[0] if chosen else "weekly")
    print(text_of(form, loaded.name, words, moment), end="")


def _named(recipe: Recipe, form: str) -> str:
    """The recipe as a scheduler has to name it, which stands in no folder of the user's.

    Raises:
        UserError: A workflow could not see it.
    """
    from pipeline.recipe.recipe import RECIPES

    assert recipe.path is not None
    if recipe.path.parent == RECIPES:
        return recipe.path.stem
    if form != "github":
        return str(recipe.path)
    if not recipe.path.is_relative_to(ROOT):
        raise UserError(
            f"the recipe of a workflow must be in its repository, got {recipe.path}",
            hint="move it into pipeline/recipes/",
        )
    return str(recipe.path.relative_to(ROOT))
