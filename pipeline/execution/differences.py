"""Why a fingerprint is another one: what differs between its parts and those of an artifact."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from pipeline.recipe.graph import Step


def differences(old: Mapping[str, Any], new: Mapping[str, Any], step: Step) -> list[str]:
    """What differs between the parts of two fingerprints of a step, one sentence each.

    Args:
        old: The parts of an earlier artifact, which older code may have written.
        new: The parts now.
        step: The step that they are of.
    """
    causes: list[str] = []
    for section in ("stage", "version", "schema", "as", "files", "prompts"):
        if old.get(section) != new[section]:
            is_digest = section in ("files", "prompts")
            values = " changed" if is_digest else f": {old.get(section)} -> {new[section]}"
            values += _which(old.get(section), new[section]) if section == "prompts" else ""
            causes.append(f"{section}{values}")
    if old.get("release") != new.get("release"):
        causes.append("the rows of the release changed")
    if _same_texts(old.get("prompts"), new["prompts"]):
        moved = "prompts moved to other files"
        causes = [moved if c.startswith("prompts changed") else c for c in causes]
    by_content = {option.name for option in step.stage.options if option.names_files}
    causes += _value_differences("option", old.get("options", {}), new["options"], by_content)
    causes += _value_differences("model", old.get("models", {}), new["models"])
    for edge, inputs in new["inputs"].items():
        earlier = _by_place(old.get("inputs", {}).get(edge, []))
        now = _by_place(inputs)
        sources = step.needs.get(edge, ())
        for place, source in zip(now, sources, strict=True):
            causes += _input_differences(edge, source, earlier.get(place), now[place])
        named = (place for place in earlier if isinstance(place, str) and place not in now)
        causes += [f"input {edge}: {place} was removed" for place in named]
    removed = [edge for edge in old.get("inputs", {}) if edge not in new["inputs"]]
    causes += [f"input {edge} was removed" for edge in removed]
    return causes or ["its last artifact is gone"]


def _by_place(inputs: Sequence[Any]) -> dict[str | int, Any]:
    """The inputs of an edge by the names of their steps, else by their places in its list."""
    return {each.get("step", place): each for place, each in enumerate(inputs)}


def _which(old: Any, new: Mapping[str, str]) -> str:
    """The prompts that have another text, where there are any."""
    changed = [name for name in new if isinstance(old, Mapping) and name in old]
    names = [PurePosixPath(name).stem for name in changed if old[name] != new[name]]
    return f": {', '.join(names)}" if names else ""


def _same_texts(old: Any, new: Mapping[str, str]) -> bool:
    """Whether two mappings from prompt files to digests have the same digests."""
    return isinstance(old, Mapping) and sorted(old.values()) == sorted(new.values())


def _value_differences(
    kind: str, old: Mapping[str, Any], new: Mapping[str, Any], by_content: Collection[str] = ()
) -> Iterator[str]:
    """What differs between the options or models of two fingerprints.

    Args:
        kind: What they are called.
        old: Their values before.
        new: Their values now.
        by_content: Those that name files, whose values are digests: a path is none of it.
    """
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if name not in new:
            yield f"{kind} {name} was removed"
        elif name not in old:
            yield f"{kind} {name} is new"
        elif before != after and name in by_content:
            yield f"the files of {kind} {name} changed"
        elif before != after:
            short = kind == "option" and len(f"{before}{after}") < 80
            yield f"{kind} {name}: {before!r} -> {after!r}" if short else f"{kind} {name} changed"


def _input_differences(edge: str, source: str, before: Any, after: Any) -> list[str]:
    if before == after:
        return []
    if before is None:
        return [f"input {edge}: {source} is new"]
    if "files" in after or "files" in before:
        return [f"input {edge}: the files of {source} changed"]
    if before["ids"] != after["ids"]:
        return [f"input {edge}: other rows come from {source}"]
    changed = [c for c, v in after["columns"].items() if before["columns"].get(c) != v]
    return [f"input {edge}: column {', '.join(changed) or 'set'} of {source} changed"]
