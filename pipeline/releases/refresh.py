"""Refresh: one idempotent step from the sources as they are to a release, for a scheduler.

    resolve sources -> nothing new? -> run -> compare -> gate -> release -> publish

Whatever stops it leaves no half release: what has run is kept, and the next refresh goes on
there. What it did and why is a line of `refresh.log.jsonl` in the store.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pipeline.errors import Exit, RecipeErrors, UserError
from pipeline.execution.hub_sources import resolve_sources
from pipeline.execution.progress import Progress
from pipeline.execution.remote_inputs import fetch_changed
from pipeline.execution.runner import Runner
from pipeline.execution.snapshot import Snapshot
from pipeline.execution.time_limit import TooSlow, time_limit
from pipeline.recipe.publication import Publish
from pipeline.recipe.recipe import Recipe, locate
from pipeline.recipe.yaml_document import parse
from pipeline.releases import sources
from pipeline.releases.contents import contents
from pipeline.releases.create import create
from pipeline.releases.diff import diff
from pipeline.releases.outgoing import Outgoing
from pipeline.releases.plugins import plugin
from pipeline.releases.publish import has_version
from pipeline.releases.refresh_log import NOTHING_NEW, Refreshed, append, was_published
from pipeline.store.disk_errors import disk_errors_explained
from pipeline.store.releases import check_name, latest
from pipeline.store.store import Store
from schemas.release import Release


def refresh(
    reference: str,
    store: Store,
    load: Callable[[], Recipe],
    progress: Callable[[Recipe], Progress],
    workers: int = 1,
) -> Refreshed:
    """Bring a data set up to date: release and publish it where its sources changed.

    Args:
        reference: The recipe, as on the command line.
        store: The store; its log gets one line.
        load: Reads the recipe.
        progress: Makes the progress of a run.
        workers: Processes for row-wise stages.

    Returns:
        What was done. A mistake of the user's, a lost source, a refused gate and a place that
        does not answer, and batches that are under way, are `code`, `outcome` and `why`.

    Raises:
        UserError: Another refresh of the recipe is running (exit code 9), or there is no such
            recipe.
    """
    path = locate(reference)
    began, name = time.monotonic(), _name(path)
    result = Refreshed(name, time=datetime.now(UTC).isoformat(timespec="seconds"))
    with _alone(store, name):
        try:
            with disk_errors_explained(store.root):
                last = latest(store, name)
                result.release = _reference(last)
                recipe = sources.loaded(load, had_release=last is not None)
                _refresh(recipe, store, result, progress, workers)
        except UserError as error:
            result.code, result.outcome = error.code, error.what
            result.why = [line.strip() for line in _details(error).splitlines()]
        result.seconds = round(time.monotonic() - began, 1)
        append(store, result)
    return result


def _details(error: UserError) -> str:
    """What an error says beside the fact."""
    if isinstance(error, RecipeErrors):
        return "\n".join(map(str, error.problems))
    hint = f"try: {error.hint}" if error.hint else None
    return "\n".join(filter(None, [error.where, error.why, hint]))


def _name(path: Path) -> str:
    """The recipe's name, where it can be read: it may have other mistakes."""
    try:
        content = parse(path.read_text("utf-8"), str(path)).content
    except (OSError, UnicodeDecodeError, UserError):
        return path.stem
    name = content.get("name") if isinstance(content, dict) else None
    return name if isinstance(name, str) and "/" not in name else path.stem


@contextmanager
def _alone(store: Store, name: str) -> Iterator[None]:
    """Hold the lock of a recipe's refreshes; a dead process does not keep it.

    Raises:
        UserError: Another refresh holds it, or the store cannot be written to.
    """
    folder = store.root / "releases"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / f".{name}.refresh").open("a")
    except OSError as error:
        what, hint = "the store cannot be written to", "choose another folder: --store DIR"
        raise UserError(what, where=str(folder), why=error.strerror, hint=hint) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"another refresh of {name} is running",
                where=str(store.root),
                hint="this one did nothing; the next one will see what is new",
                code=Exit.TRY_AGAIN,
            ) from None
        yield


def _refresh(
    recipe: Recipe,
    store: Store,
    result: Refreshed,
    progress: Callable[[Recipe], Progress],
    workers: int,
) -> None:
    last = latest(store, check_name(recipe.name))  # before anything runs for such a name
    resolve_sources(recipe, store, had_release=last is not None)
    fetch_changed(recipe.steps.values(), store, had_release=last is not None)
    result.why = sources.changes(recipe, store, last)
    damaged = list(sources.damages(store, last)) if last else []
    if last and not result.why and not damaged:
        _publish(recipe, store, last, result)
        return
    result.why += damaged
    _run(recipe, store, last, result, progress, workers)
    if result.code is not Exit.DONE:
        return
    _pass_gate(recipe, store)
    created = create(recipe, store)
    result.release = _reference(created.release)
    if created.is_new:
        result.outcome = "released"
        _compare(store, last, created.release, result)
    elif last and damaged and (left := list(sources.damages(store, last))):
        result.outcome = f"nothing new; {result.release} stays damaged: its stages have changed"
        result.why = left
    elif damaged:
        result.outcome = "nothing new; what was damaged in the store was computed again"
    else:
        result.outcome = "the sources changed, and no row did: no new release"
    _publish(recipe, store, created.release, result)


def _reference(release: Release | None) -> str | None:
    return f"{release['name']}@{release['version']}" if release else None


def _run(
    recipe: Recipe,
    store: Store,
    last: Release | None,
    result: Refreshed,
    progress: Callable[[Recipe], Progress],
    workers: int,
) -> None:
    """Run the sources, see whether one shrank, and run the rest, within the time limit.

    Raises:
        UserError: A source shrank (exit code 8), a budget or the time limit is reached (5).
    """
    hours, shown = recipe.refresh.max_hours, progress(recipe)
    runner = Runner(recipe, store, shown, workers, shown=[*recipe.steps])
    try:
        with time_limit(hours * 3600 if hours else None):
            code = runner.run(sources.source_steps(recipe, store))
            sources.refuse_shrunk(recipe, runner, last)
            code = runner.run()
    except TooSlow:
        raise UserError(
            f"the time limit of {hours:g} hours is reached; nothing was released",
            hint="what is finished is kept: the next refresh goes on there",
            code=Exit.BUDGET,
        ) from None
    finally:
        shown.close()
        _count(runner, result)
    if code is Exit.WAITING:
        result.code, result.outcome = code, "waiting for batches: nothing was released yet"
        result.why = [
            f"{name}: {error.what}; {error.why}" for name, error in runner.waiting.items()
        ]
        result.why.append("the next refresh goes on there")
    if code is Exit.ROWS_FAILED:
        failed = _failed(runner)
        result.code, result.outcome = code, "rows failed: nothing was released"
        result.why = [f"{name}: {count:,} failed rows" for name, count in failed.items()]
        result.why.append(recipe.command("cat", next(iter(failed)), "--failed", store=store.root))


def _count(runner: Runner, result: Refreshed) -> None:
    for name in runner.ran:
        artifact = runner.store.latest(runner.recipe.name, name)
        for counter, number in (artifact.manifest["used"] if artifact else {}).items():
            result.used[counter] = result.used.get(counter, 0) + number


def _failed(runner: Runner) -> dict[str, int]:
    counts = {n: a.manifest["counts"]["failed"] for n, a in runner.outputs.artifacts.items()}
    return {name: count for name, count in counts.items() if count}


def _pass_gate(recipe: Recipe, store: Store) -> None:
    """Hold the gate over what would be released, where the recipe says how it is published.

    Raises:
        UserError: The gate refuses (exit code 7).
    """
    if recipe.publish == Publish():
        return
    snapshot = Snapshot.of_recipe(recipe, store)
    release = {**contents(snapshot, recipe.name), "version": "next"}
    findings = plugin("check")(store, release, snapshot, recipe.publish)
    refusals = [str(finding) for finding in findings if finding.level == "refuse"]
    if refusals:
        raise UserError(
            "the gate refuses: nothing was released",
            why="\n".join(refusals),
            code=Exit.REFUSED,
        )


def _compare(store: Store, last: Release | None, new: Release, result: Refreshed) -> None:
    if last is None:
        result.rows = {"added": new["counts"]["kept"], "after": new["counts"]["kept"]}
        return
    differences = diff(Snapshot.of_release(store, last), Snapshot.of_release(store, new))
    result.rows = differences["rows"]
    result.causes = sorted(differences["causes"], key=lambda cause: -cause["rows"])


def _publish(recipe: Recipe, store: Store, release: Release, result: Refreshed) -> None:
    """Publish a release where the recipe says so and it is not published yet.

    Raises:
        UserError: The place refuses, has lost what was published, or does not answer (exit code
            9).
    """
    to, reference = recipe.publish.to, f"{release['name']}@{release['version']}"
    if to is None:
        return
    if was_published(store, reference, to):
        if not has_version(release["version"], to):
            raise UserError(
                f"{reference} was published and is not there any more",
                where=to,
                why="it was erased, or the place is another one or was lost",
                hint=f"if it is to be there: {recipe.command('publish', store=store.root)}",
            )
        result.published = to
        return
    # The release stands by now: publishing it is what is left to do, whatever happens here.
    sent = Outgoing(store, release, recipe.publish).publish()
    result.published = to
    if result.outcome == NOTHING_NEW and sent.outcome.is_new:
        result.outcome = f"nothing new; {reference} was not published yet, and is now"
