"""What would run, and why: fingerprints, states and causes.

A fingerprint is a digest over its parts: stage and version, options, prompts,
models by identity, and for each input the digests of its row ids and of the
columns that the stage reads. It depends on content alone, so it is known only once
the inputs exist; until then a stage is `unknown`. A change upstream that gives the
same values goes no further.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, Literal

from pipeline.errors import RecipeErrors, UserError
from pipeline.execution.differences import differences
from pipeline.execution.hub_sources import with_commit
from pipeline.execution.release_inputs import read_parts, with_version
from pipeline.execution.remote_inputs import NotFetched, with_copies
from pipeline.models.identity import identity, reading
from pipeline.recipe.code_hash import code_hash, prompt_digests
from pipeline.recipe.graph import Step, wrong_options
from pipeline.recipe.recipe import Recipe
from pipeline.stage import ALL, DECLARED, DataKind, Edge, Option, OptionalColumn
from pipeline.store.artifact import Artifact, files_digest
from pipeline.store.file_hashes import FileDigests
from pipeline.store.hashing import digest, to_json_value
from pipeline.store.row_view import Layer, View
from pipeline.store.store import Store
from pipeline.wording import counted

SCHEMA_VERSION: Final = 1

State = Literal["cached", "stale", "missing", "unknown", "incomplete"]
"""cached: its artifact can be reused. incomplete: the same, but failed rows are retried.
stale: there is another artifact of it. missing: it never ran. unknown: its inputs are missing."""


@dataclass(frozen=True)
class PlannedStep:
    """A step of the recipe with its state in the store.

    Attributes:
        step: The step.
        state: Whether its artifact is there.
        options: Its options; a model that another step trained has the path of its weights.
        parts: What the fingerprint is a digest of; None while the state is `unknown`.
        fingerprint: The key of its artifact; None while the state is `unknown`.
        artifact: What can be reused (cached) or completed (incomplete).
        causes: Why it would run.
        drifted: Whether its code changed under the same version.
    """

    step: Step
    state: State
    options: SimpleNamespace
    parts: Mapping[str, Any] | None = None
    fingerprint: str | None = None
    artifact: Artifact | None = None
    causes: list[str] = field(default_factory=list)
    drifted: bool = False


@dataclass
class StepOutputs:
    """The outputs of the steps so far.

    Attributes:
        artifacts: Their artifacts by step.
        views: The rows behind each step; none for steps that give files.
    """

    artifacts: dict[str, Artifact] = field(default_factory=dict)
    views: dict[str, View] = field(default_factory=dict)

    def add(self, step: Step, artifact: Artifact) -> None:
        """Add a step's artifact, and its view where the step has rows."""
        self.artifacts[step.name] = artifact
        columns = list(artifact.manifest["columns"])
        if step.stage.makes:
            self.views[step.name] = View((Layer(artifact, tuple(columns)),))
        elif step.stage.annotates and step.first in self.views:
            added = [name for name in columns if name != "id"]
            self.views[step.name] = self.views[step.first].with_layer(artifact, added)


def plan(recipe: Recipe, store: Store, targets: Sequence[str] = ()) -> list[PlannedStep]:
    """Plan every step that the targets need.

    Args:
        recipe: The recipe.
        store: Where artifacts are.
        targets: Names of steps; empty for all of them.

    Returns:
        The planned steps in the order in which they would run.

    Raises:
        UserError: The recipe has no such step, or a file or a model cannot be read.
    """
    outputs, files, steps = StepOutputs(), store.files(), []
    for step in select_steps(recipe, targets):
        planned = plan_step(recipe, step, store, outputs, files)
        steps.append(planned)
        if planned.state == "cached" and planned.artifact:
            outputs.add(step, planned.artifact)
    return steps


def select_steps(recipe: Recipe, targets: Sequence[str]) -> list[Step]:
    """The steps that lead to the targets, in the recipe's order.

    Args:
        recipe: The recipe.
        targets: Names of steps; empty for all of them, in a preview for all that give rows.

    Raises:
        UserError: The recipe has no such step.
    """
    needed = {recipe.step(target).name for target in targets}
    if not needed:
        steps = recipe.steps.values()
        needed = {s.name for s in steps if recipe.limit is None or s.stage.gives_rows}
    for step in reversed(list(recipe.steps.values())):
        if step.name in needed:
            needed.update(step.upstream)
    return [step for step in recipe.steps.values() if step.name in needed]


def plan_step(
    recipe: Recipe, step: Step, store: Store, outputs: StepOutputs, files: FileDigests
) -> PlannedStep:
    """Plan one step.

    Args:
        recipe: The recipe that it belongs to.
        step: The step.
        store: Where artifacts are.
        outputs: The artifacts of the steps before it, as far as they are there.
        files: Digests of input files and weights.

    Raises:
        UserError: A file or a model cannot be read.
    """
    drifted = store.code(step.stage.name, step.stage.version) not in (None, code_hash(step.stage))
    absent = [name for name in dict.fromkeys(step.upstream) if name not in outputs.artifacts]
    if absent:
        causes = [f"unknown until {name} has run" for name in absent]
        return PlannedStep(step, "unknown", step.options, causes=causes, drifted=drifted)
    try:
        options = resolved_options(recipe, step, store, outputs, files)
        parts = fingerprint_parts(step, options, store, outputs, files)
    except NotFetched as error:
        causes = [f"unknown until {error.address} is fetched, which run does"]
        return PlannedStep(step, "unknown", step.options, causes=causes, drifted=drifted)
    except UserError as error:
        error.where = f"{step.where}: {error.where or step.name}"
        raise
    key = digest(parts)
    artifact = store.artifact(key)
    if artifact and (causes := _missing_columns(step, artifact)):
        return PlannedStep(step, "stale", options, parts, key, None, causes, drifted)
    if artifact:
        state: State = "incomplete" if artifact.manifest["incomplete"] else "cached"
        causes = [f"{artifact.manifest['counts']['failed']} failed rows are retried"]
        causes = causes if state == "incomplete" else []
        return PlannedStep(step, state, options, parts, key, artifact, causes, drifted)
    if partial := store.artifact(digest(partial_parts(parts))):
        number = partial.manifest["used"].get("not_asked", 0)
        were = "was" if number == 1 else "were"
        causes = [f"{counted(number, 'request')} {were} not sent before the budget was reached"]
        return PlannedStep(step, "incomplete", options, parts, key, partial, causes, drifted)
    latest = store.latest(recipe.history(parts), step.name, other_than=key)
    if latest is None:
        return PlannedStep(step, "missing", options, parts, key, None, ["never run"], drifted)
    causes = differences(latest.manifest["parts"], parts, step)
    return PlannedStep(step, "stale", options, parts, key, None, causes, drifted)


def partial_parts(parts: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a step that did not send all of its own requests.

    They differ from those of a step that only has partial inputs, which asked all that it could.

    Args:
        parts: The step's parts.
    """
    return {**parts, "partial": "itself"}


def _missing_columns(step: Step, artifact: Artifact) -> list[str]:
    """Why an artifact of other code under the same version cannot be reused."""
    missing = [name for name in step.own if name not in artifact.manifest["columns"]]
    return [f"its artifact lacks the column {name!r} that the stage now adds" for name in missing]


def resolved_options(
    recipe: Recipe, step: Step, store: Store, outputs: StepOutputs, files: FileDigests
) -> SimpleNamespace:
    """The options of a step with paths of weights and copies, a release's version, a commit.

    Args:
        recipe: The recipe that it belongs to.
        step: The step.
        store: Where artifacts and releases are.
        outputs: The artifacts of the steps before it.
        files: Digests of input files and weights.

    Raises:
        UserError: There is no such release, or a file elsewhere was never fetched.
    """
    options = with_copies(step, _with_weights(step, outputs), store, files)
    options = with_commit(options, store)
    if not step.stage.reads_release:
        return options

    def fingerprint(other: Step) -> str:
        resolved = resolved_options(recipe, other, store, outputs, files)
        return digest(fingerprint_parts(other, resolved, store, outputs, files))

    return with_version(recipe, options, store, fingerprint)


def _with_weights(step: Step, outputs: StepOutputs) -> SimpleNamespace:
    """The options; each model that another step trained has the path of its weights."""
    options = SimpleNamespace(**vars(step.options))

    def with_path(model: Any) -> Any:
        if (second := getattr(model, "fallback", None)) is not None:
            model = replace(model, fallback=with_path(second))
        if model.made_by is None:
            return model
        trained = outputs.artifacts[model.made_by].files
        return replace(model, model=str(trained / _weights_folder(model)))

    for option in step.stage.options:
        if option.is_model:
            value = getattr(options, option.name)
            setattr(options, option.name, option.each(value, with_path))
    return options


def fingerprint_parts(
    step: Step, options: SimpleNamespace, store: Store, outputs: StepOutputs, files: FileDigests
) -> dict[str, Any]:
    """All that decides a step's result, as JSON values by name.

    Args:
        step: The step.
        options: Its options, with the paths of trained weights.
        store: Caches digests of columns.
        outputs: The artifacts of the steps before it.
        files: Digests of input files and weights.

    Raises:
        UserError: A file or a model cannot be read.
    """
    stage = step.stage
    parts: dict[str, Any] = {
        "stage": stage.name,
        "version": stage.version,
        "schema": SCHEMA_VERSION,
        "options": {
            option.name: _option_value(option, getattr(options, option.name), files)
            for option in stage.options
            if not option.is_model
            and not (option.name in stage.later and getattr(options, option.name) == option.default)
        },
        "models": {
            option.name: option.each(
                getattr(options, option.name), lambda model: _model_identity(model, outputs, files)
            )
            for option in stage.options
            if option.is_model
            and not (option.name in stage.later and getattr(options, option.name) == option.default)
        },
        "files": files.get_many(stage.input_files(options)),
        "prompts": prompt_digests(stage),
        "inputs": {
            edge.name: [
                _named(edge, name) | _input_digests(step, edge, name, store, outputs)
                for name in step.needs.get(edge.name, ())
            ]
            for edge in stage.edges
            if edge.name not in stage.later or step.needs.get(edge.name)
        },
        "as": dict(step.rename),
        **_incomplete_parts(step, outputs),
    }
    if stage.reads_release:  # another store enters by its rows, never by its path
        parts["options"]["store"] = None
        parts["release"] = read_parts(options, store)
    return parts


def _incomplete_parts(step: Step, outputs: StepOutputs) -> dict[str, Any]:
    """What a step's artifact holds a part of the rows for; nothing where it is for all of them."""
    upstream = [outputs.artifacts[name].manifest["parts"] for name in step.upstream]
    limits = [step.limit, *(parts.get("limit") for parts in upstream)]
    limit = next((n for n in limits if n is not None), None)
    partial = any(parts.get("partial") for parts in upstream)
    return ({"limit": limit} if limit else {}) | ({"partial": True} if partial else {})


def _option_value(option: Option, value: Any, files: FileDigests) -> Any:
    if option.names_files and value is not None:
        try:
            return files.get_many([Path(path) for path in value])
        except OSError as error:
            raise UserError(f"{error.filename} cannot be read", why=error.strerror) from None
    if option.names_data_set and value is not None and os.path.isabs(value):
        value = os.path.basename(value)  # its files count by content, see `input_files`
    return to_json_value(value, option.name)


def _weights_folder(model: Any) -> str:
    """Where the step that trained a model has its weights, below its files."""
    checkpoint = getattr(model, "checkpoint", None)
    return "model" if checkpoint is None else f"checkpoints/{checkpoint}"


def _model_identity(model: Any, outputs: StepOutputs, files: FileDigests) -> Any:
    if model.made_by is not None:
        trained = outputs.artifacts[model.made_by]
        model = replace(
            model, id=files_digest(trained.manifest, f"files/{_weights_folder(model)}/")
        )
    second = getattr(model, "fallback", None)
    more = {"fallback": _model_identity(second, outputs, files)} if second else {}
    return identity(model, files) | reading(model) | more


def _named(edge: Edge, name: str) -> dict[str, Any]:
    """The name of a step where the stage gets it, and so may write it into its result."""
    return {"step": name} if edge.named else {}


def _input_digests(
    step: Step, edge: Edge, name: str, store: Store, outputs: StepOutputs
) -> dict[str, Any]:
    if edge.kind is DataKind.FILES:
        return {"files": files_digest(outputs.artifacts[name].manifest)}
    view = outputs.views[name]
    return view.digests(edge_columns(step, edge.name, edge.kind, view), store)


def edge_columns(step: Step, edge: str, kind: DataKind, view: View) -> list[str]:
    """The columns that a step reads on an edge: declared for records and pairs, all for others.

    Optional ones are among them where they are there.

    Args:
        step: The step that reads.
        edge: The name of its edge.
        kind: What flows along it.
        view: The rows that come.
    """
    reads = step.stage.reads(edge, step.options) if kind in DECLARED else ALL
    if reads == ALL:
        return [c for c in view.columns if c != "id"]
    return [c for c in reads if c in view.columns or not isinstance(c, OptionalColumn)]


def edge_argument(edge: Edge, names: Sequence[str], values: Sequence[Any]) -> Any:
    """What a stage gets on an edge: a value or None, a list, or values by the names of steps.

    Args:
        edge: The edge.
        names: The steps that are connected to it.
        values: What comes from each.
    """
    if edge.named:
        return dict(zip(names, values, strict=True))
    return list(values) if edge.many else next(iter(values), None)


def check(planned: Sequence[PlannedStep]) -> None:
    """Check the options of all steps that would run.

    Raises:
        RecipeErrors: Everything that is wrong, together.
    """
    due = [entry for entry in planned if entry.state != "cached"]
    problems = [wrong_options(entry.step, entry.options) for entry in due]
    if errors := list(filter(None, problems)):
        raise RecipeErrors(errors)
