"""What a refresh compares with the last release: the recipe, its sources, the store's files."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pipeline.errors import Exit, RecipeErrors, UserError
from pipeline.execution.plan import plan
from pipeline.execution.release_inputs import is_own_source
from pipeline.execution.runner import Runner
from pipeline.recipe.recipe import Recipe
from pipeline.store.store import Store
from schemas.release import Release


def loaded(load: Callable[[], Recipe], *, had_release: bool) -> Recipe:
    """The recipe.

    Args:
        load: Reads it.
        had_release: Whether its sources were there before.

    Raises:
        UserError: It has mistakes; or files that the last release was made from are gone
            (exit code 8).
    """
    try:
        return load()
    except RecipeErrors as errors:
        lost = [problem for problem in errors.problems if problem.code is Exit.SOURCE_LOST]
        if had_release and lost == errors.problems:
            what = f"{_count(len(lost))} vanished; nothing was released"
            why = "; ".join(problem.what for problem in lost)
            raise UserError(what, where=lost[0].where, why=why, code=Exit.SOURCE_LOST) from None
        raise


def _count(number: int) -> str:
    return "1 source" if number == 1 else f"{number} sources"


def changes(recipe: Recipe, store: Store, last: Release | None) -> list[str]:
    """What is new since the last release: the recipe or sources; empty where nothing is.

    Args:
        recipe: The recipe.
        store: The store.
        last: Its last release.

    Raises:
        UserError: A source cannot be read.
    """
    if last is None:
        return ["there is no release yet"]
    why = ["the recipe changed"] if last["recipe"]["digest"] != recipe.digest else []
    released = {stage["name"]: stage["fingerprint"] for stage in last["stages"]}
    sources = source_steps(recipe, store)
    for planned in plan(recipe, store, sources) if sources else ():
        name = planned.step.name
        if name in sources and planned.fingerprint != released.get(name):
            why.append(f"{name}: {', '.join(planned.causes) or 'as in an earlier run'}")
    return why


def damages(store: Store, release: Release) -> Iterator[str]:
    """The stages of a release of which a file is damaged or gone; a run computes them again.

    A file is read where its size, inode or times are not those of the last time.

    Args:
        store: Where its artifacts are.
        release: The release.
    """
    files = store.files()
    for stage in release["stages"]:
        artifact = store.artifact(stage["fingerprint"])
        if artifact is None:
            yield f"{stage['name']}: its artifact is damaged or gone"
            continue
        try:
            artifact.verify_all(files)
        except UserError as error:
            yield f"{stage['name']}: {error.where} is damaged ({error.why})"


def source_steps(recipe: Recipe, store: Store) -> list[str]:
    """The stages that read the outside; the recipe's own releases are none of it.

    Args:
        recipe: The recipe.
        store: Where its releases are.
    """
    return [
        step.name
        for step in recipe.steps.values()
        if not step.upstream and not is_own_source(step, recipe, store)
    ]


def refuse_shrunk(recipe: Recipe, runner: Runner, last: Release | None) -> None:
    """Refuse sources with far fewer rows than in the last release.

    Args:
        recipe: The recipe.
        runner: What loaded its sources.
        last: Its last release.

    Raises:
        UserError: There is one (exit code 8).
    """
    before = {s["name"]: s["counts"]["kept"] for s in last["stages"]} if last else {}
    limit, artifacts = recipe.refresh.shrink, runner.outputs.artifacts
    sources = (name for name in source_steps(recipe, runner.store) if name in artifacts)
    shrunk = [
        f"{name}: {before[name]:,} -> {artifacts[name].kept:,} rows"
        for name in sources
        if artifacts[name].kept < before.get(name, 0) * (1 - limit)
    ]
    if shrunk:
        raise UserError(
            f"{_count(len(shrunk))} shrank by more than {limit:.0%}; nothing was released",
            why="; ".join(shrunk),
            hint="mend the source, or allow it once: --set refresh.shrink=1",
            code=Exit.SOURCE_LOST,
        )
