"""A stage that trains several times in the processes that it is called in, for tests of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.context import Context
from pipeline.models import LanguageModel
from pipeline.recipe.discovery import find
from pipeline.recipe.options import bind
from pipeline.stage import ROOT, stage
from stages._training import trainer
from stages._training.processes import processes as processes


@stage(version=1, scope="set")
def trainings(
    ctx: Context,
    *,
    model: LanguageModel,
    gradient_accumulation_steps: int,
    cases: str,
    every_step: bool,
) -> None:
    """Run stages one after the other; each training's files are in a folder of its number.

    Args:
        model: The model.
        gradient_accumulation_steps: Of each training.
        cases: JSON: for each training `uses`, `shards`, `options`.
        every_step: Whether a checkpoint is saved at every step.
    """
    if every_step:
        trainer.CHECKPOINT_SECONDS, trainer.SAVING_FRACTION = 0.0, 1e9  # type: ignore[misc]
    for number, case in enumerate(json.loads(cases)):
        own = replace(ctx, files=ctx.files / str(number), work=ctx.work / str(number))
        for folder in (own.files, own.work):
            folder.mkdir(parents=True, exist_ok=True)
        named = find(case["uses"])
        raw = {"model": "m", "gradient_accumulation_steps": gradient_accumulation_steps}
        options, problems = bind(named, raw | case["options"], {"m": model}, ROOT)
        assert not problems, problems
        assert named.check is not None
        named.check(options)
        edges: dict[str, Any] = {edge.name: None for edge in named.edges}
        edges[named.edges[0].name] = Path(case["shards"])
        named.call(own, edges, vars(options))
