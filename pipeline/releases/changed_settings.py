"""What was set otherwise: stages, options, models and sources that two snapshots differ in.

It is read from the parts of fingerprints, which the artifacts keep: what could change a result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.errors import UserError
from pipeline.execution.snapshot import Snapshot
from pipeline.recipe.discovery import find
from pipeline.releases.contents import stages_of
from schemas.release import ReleaseStage

Table = list[dict[str, Any]]


def changed_settings(before: Snapshot, after: Snapshot) -> dict[str, Table]:
    """Lists of what changed, one mapping each.

    Args:
        before: The earlier snapshot.
        after: The later one.

    Returns:
        `stages` that came, went, or are of another version; `options` and `models` with their
        values before and after; `prompts` with the digests of their texts; `sources` (stages
        that load) with other content, and their rows.
    """
    old = {stage["name"]: stage for stage in stages_of(before)}
    new = {stage["name"]: stage for stage in stages_of(after)}
    both = [name for name in new if name in old and old[name]["uses"] == new[name]["uses"]]
    pairs = [(old[name], new[name]) for name in both]
    return {
        "stages": list(_stages(old, new)),
        "options": [line for a, b in pairs for line in _options(a, b)],
        "models": [line for a, b in pairs for line in _values("model", a, b, "models", set())],
        "prompts": [line for a, b in pairs for line in _values("prompt", a, b, "prompts", set())],
        "sources": [line for a, b in pairs for line in _source(a, b)],
    }


def _stages(
    old: Mapping[str, ReleaseStage], new: Mapping[str, ReleaseStage]
) -> Iterator[dict[str, Any]]:
    for name in dict.fromkeys([*old, *new]):
        before, after = _label(old.get(name)), _label(new.get(name))
        if before != after:
            yield {"stage": name, "before": before, "after": after}


def _label(stage: ReleaseStage | None) -> str | None:
    return None if stage is None else f"{stage['uses']}, version {stage['version']}"


def _options(old: ReleaseStage, new: ReleaseStage) -> Iterator[dict[str, Any]]:
    return _values("option", old, new, "options", _file_options(new["uses"]))


def _file_options(uses: str) -> set[str]:
    """The options of a stage whose values are digests of files; none where it is not here."""
    try:
        return {option.name for option in find(uses).options if option.names_files}
    except UserError:
        return set()


def _values(
    kind: str, old: ReleaseStage, new: ReleaseStage, section: str, without: set[str]
) -> Iterator[dict[str, Any]]:
    before, after = old["parts"].get(section, {}), new["parts"].get(section, {})
    for name in sorted({*before, *after} - without):
        if before.get(name) != after.get(name):
            values = {"before": before.get(name), "after": after.get(name)}
            yield {"stage": new["name"], kind: name, **values}


def _source(old: ReleaseStage, new: ReleaseStage) -> Iterator[dict[str, Any]]:
    """A stage that reads files or a data set of the outside, where that is another one now."""
    if new["needs"] or old["needs"]:
        return
    if old["digest"] != new["digest"] or old["counts"] != new["counts"]:
        counts = {"before": old["counts"]["kept"], "after": new["counts"]["kept"]}
        failed = {"failed_before": old["counts"]["failed"], "failed_after": new["counts"]["failed"]}
        yield {"stage": new["name"], "uses": new["uses"], **counts, **failed}
