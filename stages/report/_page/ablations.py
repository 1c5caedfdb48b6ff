"""The results of `report.ablation`, placed on an axis: differences with their intervals."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from pipeline.errors import UserError
from pipeline.execution.snapshot import Snapshot

AXIS: Final = 1000.0
"""Length of the axis."""

MARGIN: Final = 0.08
"""The part of the axis that is left free at either end."""


def ablations(snapshot: Snapshot) -> list[dict[str, Any]]:
    """Every ablation of a snapshot: its arms and its comparisons with places on an axis.

    Args:
        snapshot: The stages.

    Raises:
        UserError: A result cannot be read.
    """
    results = []
    for name, artifact in snapshot.artifacts.items():
        path = artifact.files / "ablation.json"
        if artifact.manifest["stage"] == "report.ablation" and path.exists():
            results.append({"stage": name, **_shown(snapshot, name, _read(path))})
    return results


def _shown(snapshot: Snapshot, name: str, result: dict[str, Any]) -> dict[str, Any]:
    """What the page shows of a result: of many comparisons those with a baseline."""
    every = result["comparisons"]
    comparisons = [entry for entry in every if entry["arm"] in _BASELINES] or every
    sets = result["counts"]["eval_rows"]
    several = len({(entry["selected"], entry["eval_rows"]) for entry in comparisons}) > 1
    for entry in comparisons:
        where = f": {entry['selected']} on {entry['eval_rows']}" if several else ""
        entry["rows"], entry["label"] = sets[entry["eval_rows"]]["rows"], f"{entry['arm']}{where}"
    costs = selection_costs(snapshot, name)
    arms = [
        {key: arm[key] for key in _ARM} | {"cost": costs.get(arm["arm"])} for arm in result["arms"]
    ]
    return {
        "sets": [*sets],
        "base": result["base"],
        "arms": sorted(arms, key=lambda arm: sum(arm["by_set"].values())),
        "axis": _axis(comparisons),
        "comparisons": comparisons,
        "in_words": len(comparisons) <= _FEW,
    }


def selection_costs(snapshot: Snapshot, name: str) -> dict[str, dict[str, float]]:
    """What each set of selected rows has cost beyond the pool: seconds, tokens and requests.

    That is the sum over all stages that lead to it and not to the pool. What two sets share
    counts for each: alone, each would need it.

    Args:
        snapshot: The stages.
        name: A stage that uses `report.ablation`.
    """
    needs = snapshot.stages[name].needs
    pool = _upstream(snapshot, needs["pool"])
    costs = {}
    for selected in needs["selected"]:
        used = [snapshot.artifacts[s] for s in _upstream(snapshot, [selected]) - pool]
        manifests = [artifact.manifest for artifact in used]
        amounts = {key: sum(m["used"].get(key, 0) for m in manifests) for key in _AMOUNTS}
        costs[selected] = {"seconds": sum(m["seconds"] for m in manifests), **amounts}
    return costs


def _upstream(snapshot: Snapshot, names: Iterable[str]) -> set[str]:
    """These stages and all that they need."""
    reached, waiting = set[str](), list(names)
    while waiting:
        if (name := waiting.pop()) not in reached:
            reached.add(name)
            waiting += [n for edge in snapshot.stages[name].needs.values() for n in edge]
    return reached


_AMOUNTS: Final = ("tokens", "requests")
_BASELINES: Final = ("random", "pool")
_FEW: Final = 4
_ARM: Final = ("arm", "loss", "by_set", "spread", "trainings", "tokens", "answer_tokens", "steps")


def _read(path: Path) -> dict[str, Any]:
    try:
        result: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError("the result of the ablation cannot be read", where=str(path)) from error
    return result


def _axis(comparisons: list[dict[str, Any]]) -> dict[str, Any]:
    """Places from 0 to `AXIS` of all bounds; zero, which a difference must exclude, is on it.

    Args:
        comparisons: They get `points`: the place of the difference, and of both intervals.
    """
    intervals = [c[key] for c in comparisons for key in ("over_rows", "over_trainings")]
    values = [0.0, *(v for interval in intervals for v in interval)]
    low, high = min(values), max(values)
    span = high - low or 1.0
    low, span = low - MARGIN * span, span * (1 + 2 * MARGIN)

    def place(value: float) -> float:
        return float(round((value - low) / span * AXIS, 1))

    for comparison in comparisons:
        comparison["points"] = {
            "difference": place(comparison["difference"]),
            **{k: [place(v) for v in comparison[k]] for k in ("over_rows", "over_trainings")},
        }
    return {"zero": place(0.0), "low": low, "high": low + span}
