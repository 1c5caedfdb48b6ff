"""The likelihoods of anchors without a demonstration, measured once for all chunks of rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple
from uuid import uuid4

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.models import Engine
from pipeline.store.parquet import read_frame, write_frame
from stages.score.one_shot.exchanges import Exchange

Floats = NDArray[np.float64]

FILE: Final = "alone.parquet"
_SCHEMA: Final = {"id": pl.String, "total": pl.Float64, "distance": pl.Float64}


class Alone(NamedTuple):
    """What is known of an anchor's answer without a demonstration.

    Attributes:
        total: Its log-likelihood, in nats.
        distance: Its distance from certainty (DELIFT).
    """

    total: float
    distance: float


def distance(log_probs: Floats) -> float:
    """DELIFT's distance of an answer from certainty: 0 where each token has probability 1.

    Args:
        log_probs: Those of the answer's tokens.

    >>> round(distance(np.log(np.array([1.0, 0.2]))), 6)
    0.565685
    """
    return float(np.sqrt(np.mean((1 - np.exp(log_probs)) ** 2)))


def alone(work: Path, engine: Engine, anchors: Mapping[str, Exchange]) -> dict[str, Alone]:
    """The likelihoods of anchors, those that no chunk has measured before by the engine.

    Args:
        work: The folder that survives until the step is done; other workers may write there.
        engine: The model.
        anchors: By their ids.
    """
    file = work / FILE
    known = _read(file)
    missing = [anchor for id_, anchor in anchors.items() if id_ not in known]
    if missing:
        scores = engine.loglikelihood([anchor.alone() for anchor in missing])
        for anchor, values in zip(missing, scores, strict=True):
            exact = values.astype(np.float64)
            known[anchor.id] = Alone(float(exact.sum()), distance(exact))
        part = file.with_name(uuid4().hex)
        rows = [(id_, *values) for id_, values in sorted(known.items())]
        write_frame(part, pl.DataFrame(rows, _SCHEMA, orient="row"))
        part.replace(file)
    return {id_: known[id_] for id_ in anchors}


def _read(file: Path) -> dict[str, Alone]:
    if not file.exists():
        return {}
    return {id_: Alone(*values) for id_, *values in read_frame(file).iter_rows()}
