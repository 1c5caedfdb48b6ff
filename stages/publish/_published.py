"""The way of published rows through the graph of a release: where they come in, what they pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pipeline.execution.snapshot import Snapshot, SnapshotStage
from pipeline.releases.contents import published_stages
from pipeline.store.artifact import Artifact


def published(snapshot: Snapshot) -> list[SnapshotStage]:
    """The stages whose rows are published."""
    return [snapshot.stages[name] for name in published_stages(snapshot)]


def sources_of(snapshot: Snapshot, stage: SnapshotStage) -> list[str]:
    """The stages whose rows pass through a stage; none of one that loads or generates.

    Args:
        snapshot: The graph.
        stage: One of its stages.
    """
    if stage.first is None or stage.makes == "files":
        return []
    if stage.makes == "columns":
        return [stage.first]
    # A stage over several inputs has a row for each of theirs; a generator reads them only.
    merges = stage.artifact is not None and stage.artifact.manifest["counts"]["in"] > 0
    return list(next(iter(stage.needs.values()))) if merges else []


def passed(snapshot: Snapshot) -> Iterator[SnapshotStage]:
    """The stages that published rows passed, each once, the published ones first."""
    waiting, seen = [stage.name for stage in published(snapshot)], set[str]()
    while waiting:
        name = waiting.pop(0)
        if name not in seen:
            seen.add(name)
            yield snapshot.stages[name]
            waiting += sources_of(snapshot, snapshot.stages[name])


def entries_past(snapshot: Snapshot, checks: Callable[[SnapshotStage], bool]) -> list[str]:
    """The stages at which published rows come in and from there pass no stage of some kind.

    Args:
        snapshot: The graph.
        checks: Whether a stage is of that kind.
    """
    entries: dict[str, None] = {}
    waiting, seen = [stage.name for stage in published(snapshot)], set[str]()
    while waiting:
        stage = snapshot.stages[waiting.pop()]
        if stage.name in seen or checks(stage):
            continue
        seen.add(stage.name)
        sources = sources_of(snapshot, stage)
        waiting += sources
        if not sources:
            entries[stage.name] = None
    return sorted(entries)


def options_of(artifact: Artifact) -> dict[str, Any]:
    """The options that an artifact was made with, as its fingerprint holds them."""
    options: dict[str, Any] = artifact.manifest["parts"].get("options", {})
    return options
