"""Refresh: one idempotent step from the sources as they are to a release, for a scheduler.

    resolve sources -> nothing new? -> run -> compare -> gate -> release -> publish

Whatever stops it leaves no half release: what has run is kept, and the next refresh goes on
there. What it did and why is a line of `refresh.log.jsonl` in the store.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pipeline.errors import Exit, RecipeErrors, UserError
from pipeline.execution.hub_sources import resolve_sources
from pipeline.execution.plan import plan
from pipeline.execution.progress import Progress
from pipeline.execution.release_inputs import is_own_source
from pipeline.execution.runner import Runner
from pipeline.execution.snapshot import Snapshot
from pipeline.execution.time_limit import TooSlow, time_limit
from pipeline.recipe.publication import Publish
from pipeline.recipe.recipe import Recipe, locate
from pipeline.recipe.yaml_document import parse
from pipeline.releases.contents import contents
from pipeline.releases.create import create
from pipeline.releases.diff import diff
from pipeline.releases.outgoing import Outgoing
from pipeline.releases.plugins import plugin
from pipeline.store.releases import check_name, latest
from pipeline.store.store import Store
from schemas.release import Release

LOG: Final = "refresh.log.jsonl"
NOTHING_NEW: Final = "nothing new"


@dataclass
class Refreshed:
    """What a refresh did.

    Attributes:
        recipe: The recipe's name.
        code: The exit code.
        outcome: In a few words: "released", "nothing new", or why there is no release.
        release: `NAME@VERSION` that the data set is at now; None without any release.
        published: Where that release is published; None where it is not.
        why: What was new, or what stood against a release, one sentence each.
        rows: `diff`'s counts against the release before; empty without one.
        causes: `diff`'s causes, the largest first.
        used: Requests and tokens of this refresh.
        seconds: How long it took.
        time: When it began: ISO 8601, UTC, to the second.
    """

    recipe: str
    code: Exit = Exit.DONE
    outcome: str = NOTHING_NEW
    release: str | None = None
    published: str | None = None
    why: list[str] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    causes: list[dict[str, Any]] = field(default_factory=list)
    used: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    time: str = ""


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
        does not answer are `code`, `outcome` and `why`.

    Raises:
        UserError: Another refresh of the recipe is running (exit code 9), or there is no such
            recipe.
    """
    path = locate(reference)
    began, name = time.monotonic(), _name(path)
    result = Refreshed(name, time=datetime.now(UTC).isoformat(timespec="seconds"))
    with _alone(store, name):
        try:
            last = latest(store, name)
            result.release = _reference(last)
            recipe = _loaded(load, had_release=last is not None)
            _refresh(recipe, store, result, progress, workers)
        except UserError as error:
            result.code, result.outcome = error.code, error.what
            result.why = [line.strip() for line in _details(error).splitlines()]
        result.seconds = round(time.monotonic() - began, 1)
        _log(store, result)
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


def _loaded(load: Callable[[], Recipe], *, had_release: bool) -> Recipe:
    """The recipe.

    Raises:
        UserError: It has mistakes; or files that the last release was made from are gone
            (exit code 8).
    """
    try:
        return load()
    except RecipeErrors as errors:
        lost = [problem for problem in errors.problems if problem.code is Exit.SOURCE_LOST]
        if had_release and lost == errors.problems:
            what = f"{_sources_of(len(lost))} vanished; nothing was released"
            why = "; ".join(problem.what for problem in lost)
            raise UserError(what, where=lost[0].where, why=why, code=Exit.SOURCE_LOST) from None
        raise


def _sources_of(count: int) -> str:
    return "1 source" if count == 1 else f"{count} sources"


def _refresh(
    recipe: Recipe,
    store: Store,
    result: Refreshed,
    progress: Callable[[Recipe], Progress],
    workers: int,
) -> None:
    last = latest(store, check_name(recipe.name))  # before anything runs for such a name
    resolve_sources(recipe, store, had_release=last is not None)
    result.why = _new(recipe, store, last)
    if not result.why and last:
        _publish(recipe, store, last, result)
        return
    _run(recipe, store, last, result, progress, workers)
    if result.code is not Exit.DONE:
        return
    _pass_gate(recipe, store)
    created = create(recipe, store)
    result.release = _reference(created.release)
    if created.is_new:
        result.outcome = "released"
        _compare(store, last, created.release, result)
    else:
        result.outcome = "the sources changed, and no row did: no new release"
    _publish(recipe, store, created.release, result)


def _reference(release: Release | None) -> str | None:
    return f"{release['name']}@{release['version']}" if release else None


def _new(recipe: Recipe, store: Store, last: Release | None) -> list[str]:
    """What is new since the last release: sources, or the recipe; empty where nothing is."""
    if last is None:
        return ["there is no release yet"]
    why = ["the recipe changed"] if last["recipe"]["digest"] != recipe.digest else []
    released = {stage["name"]: stage["fingerprint"] for stage in last["stages"]}
    sources = _sources(recipe, store)
    for planned in plan(recipe, store, sources) if sources else ():
        name = planned.step.name
        if name in sources and planned.fingerprint != released.get(name):
            why.append(f"{name}: {', '.join(planned.causes) or 'as in an earlier run'}")
    return why


def _sources(recipe: Recipe, store: Store) -> list[str]:
    """The stages that read the outside; the recipe's own releases are none of it."""
    return [
        step.name
        for step in recipe.steps.values()
        if not step.upstream and not is_own_source(step, recipe, store)
    ]


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
    hours = recipe.refresh.max_hours
    try:
        with time_limit(hours * 3600 if hours else None):
            for targets in (_sources(recipe, store), []):
                shown = progress(recipe)
                runner = Runner(recipe, store, shown, workers)
                try:
                    code = runner.run(targets)
                finally:
                    shown.close()
                    _count(runner, result)
                _refuse_shrunk(recipe, runner, last)
    except TooSlow:
        raise UserError(
            f"the time limit of {hours:g} hours is reached; nothing was released",
            hint="what is finished is kept: the next refresh goes on there",
            code=Exit.BUDGET,
        ) from None
    if code is Exit.ROWS_FAILED:
        failed = _failed(runner)
        result.code, result.outcome = code, "rows failed: nothing was released"
        result.why = [f"{name}: {count:,} failed rows" for name, count in failed.items()]
        result.why.append(recipe.command("cat", next(iter(failed)), "--failed", store=store.root))


def _count(runner: Runner, result: Refreshed) -> None:
    for name in runner.ran:
        for counter, number in runner.outputs.artifacts[name].manifest["used"].items():
            result.used[counter] = result.used.get(counter, 0) + number


def _failed(runner: Runner) -> dict[str, int]:
    counts = {n: a.manifest["counts"]["failed"] for n, a in runner.outputs.artifacts.items()}
    return {name: count for name, count in counts.items() if count}


def _refuse_shrunk(recipe: Recipe, runner: Runner, last: Release | None) -> None:
    """Refuse sources with far fewer rows than in the last release.

    Raises:
        UserError: There is one.
    """
    before = {s["name"]: s["counts"]["kept"] for s in last["stages"]} if last else {}
    limit = recipe.refresh.shrink
    shrunk = []
    for name, artifact in runner.outputs.artifacts.items():
        if recipe.steps[name].upstream or is_own_source(recipe.steps[name], recipe, runner.store):
            continue
        if artifact.kept < before.get(name, 0) * (1 - limit):
            shrunk.append(f"{name}: {before[name]:,} -> {artifact.kept:,} rows")
    if shrunk:
        raise UserError(
            f"{_sources_of(len(shrunk))} shrank by more than {limit:.0%}; nothing was released",
            why="; ".join(shrunk),
            hint="mend the source, or allow it once: --set refresh.shrink=1",
            code=Exit.SOURCE_LOST,
        )


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
        UserError: The place refuses, or does not answer (exit code 9).
    """
    to, reference = recipe.publish.to, _reference(release)
    if to is None:
        return
    if (reference, to) in _published(store):
        result.published = to
        return
    # The release stands by now: publishing it is what is left to do, whatever happens here.
    sent = Outgoing(store, release, recipe.publish).publish()
    result.published = to
    if result.outcome == NOTHING_NEW and sent.outcome.is_new:
        result.outcome = f"nothing new; {reference} was not published yet, and is now"


def _published(store: Store) -> set[tuple[str | None, str | None]]:
    """Releases with the places where a refresh published them."""
    return {(entry.get("release"), entry.get("published")) for entry in read_log(store)}


def read_log(store: Store) -> Sequence[dict[str, Any]]:
    """What each refresh did, oldest first; a line that was cut is left out.

    Args:
        store: The store.
    """
    path = store.root / LOG
    if not path.is_file():
        return []
    entries = []
    for line in path.read_text("utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        entries += [entry] if isinstance(entry, dict) else []
    return entries


def _log(store: Store, result: Refreshed) -> None:
    entry = {**vars(result), "code": int(result.code), "causes": result.causes[:5]}
    with (store.root / LOG).open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry, ensure_ascii=False) + "\n")
