"""A graph with its artifacts: of a recipe as the store has it now, or of a release.

What shows rows reads a snapshot and need not know which of the two it has: `status`, `cat`,
`explain`, differences, reports, cards and notebooks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import polars as pl

from pipeline.errors import UserError, command_line
from pipeline.execution.plan import PlannedStep, StepOutputs, plan
from pipeline.hints import closest, display, suggest
from pipeline.recipe.graph import Step, kind_of
from pipeline.recipe.preview import preview
from pipeline.recipe.recipe import Recipe, locate
from pipeline.stage import DataKind
from pipeline.store.artifact import Artifact
from pipeline.store.releases import is_reference, names, parse_reference, read_release
from pipeline.store.row_view import Layer, View
from pipeline.store.store import Store
from schemas.manifest import FAILED
from schemas.records import polars_schema
from schemas.release import Release, ReleaseStage

Makes = Literal["rows", "columns", "files"]
"""A stage makes rows of its own, columns for those of its first input, or files alone."""


@dataclass(frozen=True)
class SnapshotStage:
    """One stage with its artifact.

    Attributes:
        name: Its name in the recipe.
        uses: The stage's full name, such as `score.loss`.
        makes: What it makes.
        kind: What its rows are; None where it makes files alone.
        first: The stage on its first edge; None without.
        needs: The stages on each edge, that of the first edge first.
        artifact: Its newest artifact; None where the store has none.
        view: Its rows; None without, and where they are not of the rows of its input.
        state: Of a recipe its `State`; of a release "cached", or "missing" from the store.
        fingerprint: The key of the artifact that it has or would have; None while unknown.
        drifted: Whether its code changed under the same version.
    """

    name: str
    uses: str
    makes: Makes
    kind: DataKind | None
    first: str | None
    needs: Mapping[str, Sequence[str]]
    artifact: Artifact | None
    view: View | None
    state: str
    fingerprint: str | None = None
    drifted: bool = False


@dataclass(frozen=True)
class Snapshot:
    """All stages of a recipe or a release with their artifacts.

    Attributes:
        title: The recipe's name, or "name@1.2" of a release.
        store: Where the artifacts are.
        stages: The stages by name, each after those that it needs.
        recipe: The recipe that it is of; None for a release.
        release: The release that it is of; None for a recipe.
    """

    title: str
    store: Store
    stages: Mapping[str, SnapshotStage]
    recipe: Recipe | None = field(default=None, repr=False)
    release: Release | None = field(default=None, repr=False)

    @classmethod
    def of_recipe(cls, recipe: Recipe, store: Store) -> Snapshot:
        """The newest artifact of every stage of a recipe, up to date or not.

        A stage whose artifact does not belong to the rows that its input has now gets no view.

        Args:
            recipe: The recipe.
            store: Where artifacts are.

        Raises:
            UserError: A file or a model cannot be read.
        """
        return cls.of_plan(recipe, store, plan(recipe, store))

    @classmethod
    def of_plan(cls, recipe: Recipe, store: Store, steps: Sequence[PlannedStep]) -> Snapshot:
        """The same from a plan that is there already.

        Args:
            recipe: The recipe.
            store: Where artifacts are.
            steps: What `plan` returned for all of its stages.
        """
        outputs = StepOutputs()
        for planned in steps:
            step = planned.step
            artifact = planned.artifact or store.latest(recipe.history(planned.parts), step.name)
            if artifact and all(name in outputs.artifacts for name in step.upstream):
                if not step.stage.annotates or _matches_input(step, artifact, outputs):
                    outputs.add(step, artifact)
                else:
                    outputs.artifacts[step.name] = artifact
        stages = {p.step.name: _of_step(p, outputs) for p in steps}
        return cls(recipe.name, store, stages, recipe=recipe)

    @classmethod
    def of_release(cls, store: Store, release: Release) -> Snapshot:
        """The stages of a release with the artifacts that it names.

        Args:
            store: Where the artifacts are; those that are not there are None.
            release: The release.
        """
        stages: dict[str, SnapshotStage] = {}
        for entry in release["stages"]:
            stages[entry["name"]] = _of_entry(entry, store, stages)
        title = f"{release['name']}@{release['version']}"
        return cls(title, store, stages, release=release)

    def stage(self, name: str) -> SnapshotStage:
        """The stage of this name.

        Raises:
            UserError: There is none.
        """
        if name not in self.stages:
            subject = "the recipe" if self.recipe else self.title
            raise UserError(f"{subject} has no stage {name!r}", hint=suggest(name, self.stages))
        return self.stages[name]

    @property
    def artifacts(self) -> dict[str, Artifact]:
        """The artifacts that are there, by stage."""
        return {s.name: s.artifact for s in self.stages.values() if s.artifact}

    def rows(
        self,
        stage: str,
        part: Literal["kept", "dropped", "failed"] = "kept",
        columns: Sequence[str] | None = None,
    ) -> pl.DataFrame:
        """Rows of a stage with the columns that are visible there, in id order.

        Args:
            stage: The stage's name in the recipe.
            part: Which of its rows; dropped ones come with `drop_reason` and `evidence`,
                failed ones with `file`, `line` and `error` alone.
            columns: The columns beside `id`; all without it.

        Raises:
            UserError: The stage has not run, gives files, or has no rows that match those of
                its input; or there is no such column.
        """
        entry = self.stage(stage)
        if entry.artifact is None:
            raise self._not_there(entry)
        if part == "failed":
            failed = entry.artifact.read("failed")
            failed = failed if failed.width else pl.DataFrame(schema=polars_schema(FAILED))
            return failed if columns is None else _selected(failed, columns, stage)
        if entry.makes == "files":
            what = f"{stage} ({entry.uses}) gives files, not rows"
            raise UserError(what, hint=f"they are in {entry.artifact.files}")
        if entry.view is None:
            what = f"{stage} was made from other rows than {entry.first} has now"
            raise UserError(what, hint=self.command("run", stage))
        if part == "dropped":
            dropped = self._dropped(entry, entry.artifact)
            return dropped if columns is None else _selected(dropped, columns, stage)
        if columns is not None:
            _check_columns(entry.view.columns, columns, stage)
        return entry.view.read(entry.view.columns if columns is None else columns)

    def _dropped(self, entry: SnapshotStage, artifact: Artifact) -> pl.DataFrame:
        """The dropped rows with the columns of the input, those that the stage added, and why."""
        stored = artifact.read("dropped")
        if not stored.width:
            verdict = {"drop_reason": pl.String(), "evidence": pl.String()}
            stored = pl.DataFrame(schema={**artifact.read("kept").schema, **verdict})
        if entry.makes == "rows":
            return stored
        view = self.stages[entry.first or ""].view
        assert view is not None  # the stage has a view, which stands on that of its input
        rows = view.read([c for c in view.columns if c != "id"])
        rows = rows.filter(pl.col("id").is_in(stored["id"].implode()))
        return rows.join(stored, on="id", how="inner", maintain_order="right")

    def _not_there(self, entry: SnapshotStage) -> UserError:
        shown = display(self.store.root)
        if self.recipe:
            what = f"{entry.name} has not run yet in the store {shown}"
            return UserError(what, hint=self.command("run", entry.name))
        what = f"the rows of {entry.name} of {self.title} are not in the store {shown}"
        return UserError(what, hint=self.command("verify"))

    def command(self, verb: str, *words: str) -> str:
        """The command line of another verb on the same recipe or release, for hints.

        Args:
            verb: For example "cat".
            words: What follows.
        """
        if self.recipe:
            return self.recipe.command(verb, *words, store=self.store.root)
        return command_line(verb, self.title, *words, store=self.store.root)


def _check_columns(known: Sequence[str], columns: Sequence[str], stage: str) -> None:
    for name in columns:
        if name not in known:
            what = f"{stage} has no column {name!r}"
            raise UserError(what, hint=suggest(name, known))


def _selected(frame: pl.DataFrame, columns: Sequence[str], stage: str) -> pl.DataFrame:
    _check_columns(frame.columns, columns, stage)
    return frame.select("id", *[name for name in columns if name != "id"])


def makes(step: Step) -> Makes:
    """What a step makes."""
    if step.stage.creates:
        return "rows"
    return "columns" if step.stage.annotates else "files"


def first_of(step: Step) -> str | None:
    """The step on the first edge; None without, or where an optional one is not connected."""
    edges = step.stage.edges
    return next(iter(step.needs.get(edges[0].name, ())), None) if edges else None


def _of_step(planned: PlannedStep, outputs: StepOutputs) -> SnapshotStage:
    step = planned.step
    return SnapshotStage(
        name=step.name,
        uses=step.stage.name,
        makes=makes(step),
        kind=kind_of(step) if step.stage.gives_rows else None,
        first=first_of(step),
        needs={e.name: step.needs[e.name] for e in step.stage.edges if e.name in step.needs},
        artifact=outputs.artifacts.get(step.name),
        view=outputs.views.get(step.name),
        state=planned.state,
        fingerprint=planned.fingerprint,
        drifted=planned.drifted,
    )


def _of_entry(
    entry: ReleaseStage, store: Store, stages: Mapping[str, SnapshotStage]
) -> SnapshotStage:
    artifact = store.artifact(entry["fingerprint"])
    if artifact and artifact.manifest["digest"] != entry["digest"]:
        artifact = None  # computed again, with another result: not what was released
    columns = tuple(entry["columns"])
    first, view = entry["first"], None
    if artifact and entry["makes"] == "rows":
        view = View((Layer(artifact, columns),))
    elif artifact and entry["makes"] == "columns" and first and (below := stages[first].view):
        view = below.with_layer(artifact, [c for c in columns if c != "id"])
    return SnapshotStage(
        name=entry["name"],
        uses=entry["uses"],
        makes=entry["makes"],
        kind=DataKind(entry["kind"]) if entry["kind"] else None,
        first=first,
        needs=entry["needs"],
        artifact=artifact,
        view=view,
        state="cached" if artifact else "missing",
        fingerprint=entry["fingerprint"],
    )


def _matches_input(step: Step, artifact: Artifact, outputs: StepOutputs) -> bool:
    """Whether an annotating step's artifact was computed from the rows of its input's view.

    Older code may have written it, for a stage with other edges or one that made rows.
    """
    view = outputs.views.get(step.first)
    if view is None:
        return False
    inputs: dict[str, list[Any]] = artifact.manifest["parts"].get("inputs", {})
    first_edge = next(iter(inputs.values()), [])
    ids = first_edge[0].get("ids") if first_edge else None
    added = set(artifact.manifest["columns"]) - {"id"}
    return ids == view.layers[-1].artifact.manifest["columns"]["id"] and not added & set(
        view.columns
    )


def release_named(store: Store, text: str) -> str | None:
    """The release that a word of the command line means; None where it means a recipe.

    Args:
        store: The store.
        text: `NAME@VERSION`; or `NAME`, which means its latest release where there is no recipe
            of that name.

    Returns:
        `NAME@VERSION` or `NAME@latest`; the release need not be there where a version is named.

    Raises:
        UserError: It is neither, but close to a release's name; or names one with no version.
    """
    if is_reference(text):
        return text
    name, known = text.partition("@")[0], names(store)
    close = closest(name, known)
    if close is None:
        return None
    try:
        locate(text)
    except UserError:
        if name in known:
            return str(parse_reference(text))
        raise UserError(f"there is no recipe and no release {text!r}", hint=close) from None
    return None


def open_snapshot(
    store: Store,
    reference: str,
    overrides: Sequence[str] = (),
    profile: str | None = None,
    limit: int | None = None,
) -> Snapshot:
    """The snapshot of a release or of a recipe.

    Args:
        store: The store.
        reference: `NAME@VERSION`, a recipe's path or name, or a release's name.
        overrides: What `--set` changes; of a recipe alone.
        profile: The profile to apply; of a recipe alone.
        limit: The rows of a preview; of a recipe alone.

    Raises:
        UserError: There is no such release or recipe, or a release is to be changed.
    """
    release = release_named(store, reference)
    if release is None:
        recipe = Recipe.load(reference, overrides, profile)
        return Snapshot.of_recipe(recipe if limit is None else preview(recipe, limit), store)
    if overrides or profile or limit is not None:
        raise UserError(
            f"{reference} is a release: it cannot be changed by --set, --profile or --limit",
            hint="name the recipe instead",
        )
    return Snapshot.of_release(store, read_release(store, release))
