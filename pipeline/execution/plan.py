"""What would run, and why: fingerprints, states and causes.

A fingerprint is a digest over its parts: stage and version, options, prompts,
models by identity, and for each input the digests of its row ids and of the
columns that the stage reads. It is keyed by content, so it can be known only once
the inputs exist; until then a stage is `unknown`. A change upstream that gives
the same values stops there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, Literal

from pipeline.errors import RecipeErrors, UserError
from pipeline.execution.code_hash import code_hash, prompts
from pipeline.models.identity import identity
from pipeline.recipe.graph import Step, wrong_options
from pipeline.recipe.recipe import Recipe
from pipeline.stage import ALL, DataKind, Option
from pipeline.store.artifact import Artifact, files_digest
from pipeline.store.file_hashes import FileDigests, file_digest
from pipeline.store.hashing import digest, to_json_value
from pipeline.store.row_view import Layer, View
from pipeline.store.store import Store

SCHEMA_VERSION: Final = 1

State = Literal["cached", "stale", "missing", "unknown", "incomplete"]


@dataclass(frozen=True)
class PlannedStep:
    """A step as the store knows it.

    parts and fingerprint are None while the state is `unknown`. artifact: what
    can be reused (cached) or completed (incomplete). causes: why it would run.
    options: the step's options with the models that other steps made filled in.
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
    """The artifacts of the steps so far, and the views over them."""

    artifacts: dict[str, Artifact] = field(default_factory=dict)
    views: dict[str, View] = field(default_factory=dict)

    def add(self, step: Step, artifact: Artifact) -> None:
        """Take note of a step's artifact."""
        self.artifacts[step.name] = artifact
        columns = list(artifact.manifest["columns"])
        if step.stage.makes:
            self.views[step.name] = View((Layer(artifact, tuple(columns)),))
        elif step.stage.annotates and step.first in self.views:
            added = [name for name in columns if name != "id"]
            self.views[step.name] = self.views[step.first].with_layer(artifact, added)


def plan(recipe: Recipe, store: Store, targets: Sequence[str] = ()) -> list[PlannedStep]:
    """Every step that the targets need (all without targets), in order."""
    made, files, planned = StepOutputs(), store.files(), []
    for step in select_steps(recipe, targets):
        look = plan_step(recipe, step, store, made, files)
        planned.append(look)
        if look.state == "cached" and look.artifact:
            made.add(step, look.artifact)
    return planned


def select_steps(recipe: Recipe, targets: Sequence[str]) -> list[Step]:
    """The steps that lead to the targets, in the recipe's order; all of them without targets."""
    needed = {recipe.step(target).name for target in targets} or set(recipe.steps)
    for step in reversed(list(recipe.steps.values())):
        if step.name in needed:
            needed.update(step.upstream)
    return [step for step in recipe.steps.values() if step.name in needed]


def plan_step(
    recipe: Recipe, step: Step, store: Store, made: StepOutputs, files: FileDigests
) -> PlannedStep:
    """The state of one step, given the artifacts of those before it."""
    drifted = store.code(step.stage.name, step.stage.version) not in (None, code_hash(step.stage))
    waiting = [name for name in dict.fromkeys(step.upstream) if name not in made.artifacts]
    if waiting:
        causes = [f"unknown until {name} has run" for name in waiting]
        return PlannedStep(step, "unknown", step.options, causes=causes, drifted=drifted)
    options = _with_made_models(step, made)
    try:
        parts = fingerprint_parts(step, options, store, made, files)
    except UserError as error:
        error.where = f"{step.where}: {error.where or step.name}"
        raise
    key = digest(parts)
    artifact = store.artifact(key)
    if artifact:
        state: State = "incomplete" if artifact.manifest["incomplete"] else "cached"
        causes = [f"{artifact.manifest['counts']['failed']} failed rows are tried again"]
        causes = causes if state == "incomplete" else []
        return PlannedStep(step, state, options, parts, key, artifact, causes, drifted)
    last = store.last(recipe.name, step.name, other_than=key)
    if last is None:
        return PlannedStep(step, "missing", options, parts, key, None, ["never run"], drifted)
    causes = differences(last.manifest["parts"], parts, step)
    return PlannedStep(step, "stale", options, parts, key, None, causes, drifted)


def _with_made_models(step: Step, made: StepOutputs) -> SimpleNamespace:
    """The options with each model that another step trained pointing at its weights."""
    options = SimpleNamespace(**vars(step.options))

    def placed(model: Any) -> Any:
        if model.made_by is None:
            return model
        return replace(model, model=str(made.artifacts[model.made_by].files / "model"))

    for option in step.stage.options:
        if option.is_model:
            value = getattr(options, option.name)
            setattr(options, option.name, option.each(value, placed))
    return options


def fingerprint_parts(
    step: Step, options: SimpleNamespace, store: Store, made: StepOutputs, files: FileDigests
) -> dict[str, Any]:
    """All that decides a step's result, as plain values by name."""
    stage = step.stage
    return {
        "stage": stage.name,
        "version": stage.version,
        "schema": SCHEMA_VERSION,
        "options": {
            option.name: _option(option, getattr(options, option.name), files)
            for option in stage.options
            if not option.is_model
        },
        "models": {
            option.name: option.each(
                getattr(options, option.name), lambda model: _model(model, made, files)
            )
            for option in stage.options
            if option.is_model
        },
        "files": files.get_many(stage.input_files(options)),
        "prompts": {name: file_digest(path) for name, path in prompts(stage).items()},
        "inputs": {
            edge.name: [
                _input(step, edge.name, edge.kind, name, store, made)
                for name in step.needs.get(edge.name, ())
            ]
            for edge in stage.edges
        },
        "as": dict(step.rename),
    }


def _option(option: Option, value: Any, files: FileDigests) -> Any:
    if option.names_files and value is not None:
        try:
            return files.get_many([Path(path) for path in value])
        except OSError as error:
            raise UserError(f"{error.filename} cannot be read", why=error.strerror) from None
    return to_json_value(value, option.name)


def _model(model: Any, made: StepOutputs, files: FileDigests) -> Any:
    if model.made_by is not None:
        maker = made.artifacts[model.made_by]
        model = replace(model, id=files_digest(maker.manifest, "files/model/"))
    return identity(model, files)


def _input(
    step: Step, edge: str, kind: DataKind, name: str, store: Store, made: StepOutputs
) -> Any:
    if kind is DataKind.FILES:
        return {"files": files_digest(made.artifacts[name].manifest)}
    view = made.views[name]
    return view.digests(edge_columns(step, edge, kind, view), store)


def edge_columns(step: Step, edge: str, kind: DataKind, view: View) -> list[str]:
    """The columns that a step reads on an edge: declared for records, all for other kinds."""
    reads = step.stage.reads(edge, step.options) if kind is DataKind.RECORDS else ALL
    return [c for c in view.columns if c != "id"] if reads == ALL else list(reads)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], step: Step) -> list[str]:
    """What differs between two fingerprints' parts, in words."""
    causes: list[str] = []
    for section in ("stage", "version", "schema", "as", "files", "prompts"):
        if old.get(section) != new[section]:
            told = " changed" if section in ("files", "prompts") else ""
            causes.append(f"{section}{told or f': {old.get(section)} -> {new[section]}'}")
    for section in ("options", "models"):
        before, after = old.get(section, {}), new[section]
        for name in sorted({*before, *after}):
            if before.get(name) != after.get(name):
                causes.append(_told(section, name, before.get(name), after.get(name)))
    for edge, inputs in new["inputs"].items():
        before_inputs = old.get("inputs", {}).get(edge, [])
        for i, source in enumerate(step.needs.get(edge, ())):
            was = before_inputs[i] if i < len(before_inputs) else None
            causes += _input_differences(edge, source, was, inputs[i])
    return causes or ["its last artifact is gone"]


def _told(section: str, name: str, was: Any, now: Any) -> str:
    kind = "model" if section == "models" else "option"
    if kind == "option" and len(f"{was}{now}") < 80:
        return f"{kind} {name}: {was!r} -> {now!r}"
    return f"{kind} {name} changed"


def _input_differences(edge: str, source: str, was: Any, now: Any) -> list[str]:
    if was == now:
        return []
    if was is None:
        return [f"input {edge}: {source} is new"]
    if "files" in now or "files" in was:
        return [f"input {edge}: the files of {source} changed"]
    if was["ids"] != now["ids"]:
        return [f"input {edge}: other rows come from {source}"]
    changed = [c for c, v in now["columns"].items() if was["columns"].get(c) != v]
    return [f"input {edge}: column {', '.join(changed) or 'set'} of {source} changed"]


def check(planned: Sequence[PlannedStep]) -> None:
    """What can be known to be wrong before anything runs: raises all of it together."""
    looks = [look for look in planned if look.state != "cached"]
    problems = [wrong_options(look.step, look.options) for look in looks]
    if found := list(filter(None, problems)):
        raise RecipeErrors(found)
