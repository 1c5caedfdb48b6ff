"""The results of `report.ablation`, placed on an axis: differences with their intervals."""

from __future__ import annotations

import json
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
            result = _read(path)
            arms = [{key: arm[key] for key in _ARM} for arm in result["arms"]]
            comparisons = result["comparisons"]
            results.append(
                {
                    "stage": name,
                    "eval_rows": result["counts"]["eval_rows"]["rows"],
                    "base": result["base"]["loss"],
                    "arms": arms,
                    "axis": _axis(comparisons),
                    "comparisons": comparisons,
                }
            )
    return results


_ARM: Final = ("arm", "loss", "spread", "trainings", "tokens", "answer_tokens", "steps")


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
