"""A curriculum: when each row is read in a training, in which phase, and how often.

Human Curriculum: Instruction Tuning with Human Curriculum (Lee et al. 2023, arXiv:2310.09518).
`levels` with `interleave`.

As in the paper: rows by level of Bloom's taxonomy over all subjects, the subjects interleaved
within a level.

Ours: the subjects of a level take turns in alphabetical order, random rows of each; a subject
that is used up leaves the turn to the others.

Beyond IID: Beyond IID: Optimizing Instruction Learning from the Perspective of Instruction
Interaction and Dependency (Zhao et al. 2024, arXiv:2409.07045). `dependency` and `three_passes`
(DT-CSFT).

As in the authors' code: DT-CSFT reads what others depend on first, with a tenth of it once more,
then the rest, then what depends on it but for its last tenth; then everything shuffled; then the
mirror image of the first pass; a twentieth instead of a tenth from 50,000 rows on.

Ours: what is neither is sorted, where the code leaves it in the order of a set; `dependency`
orders any graph of prerequisites.

SFT composition (DMT): How Abilities in Large Language Models are Affected by Supervised
Fine-tuning Data Composition (Dong et al. 2023, arXiv:2310.05492). `phases`: special abilities
first, then general rows with 1/256 of the special ones. Likewise Orca's two teachers (Mukherjee
et al. 2023, arXiv:2306.02707), Self-Tuning's three stages (Zhang et al. 2024, arXiv:2406.06326),
pre-instruction-tuning, questions before their documents (Jiang et al. 2024, arXiv:2402.12847),
and with `cycles` real and augmented rows by turns.

OpenBezoar: OpenBezoar: Small, Cost-Effective and Open Models Trained on Mixes of Instruction Data
(Dissanayake et al. 2024, arXiv:2404.12195). As in the paper: one scheme of writing after the
other (`levels`, by source). Ours: one training for all of them.

`difficulty` paces: each phase is a pass over the easiest part of the rows, which grows ("baby
steps"; linear, root, log) or grows and shrinks again (cyclical curriculum learning).

Random orders come from the ids and the seed alone.
"""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Annotated

import numpy as np
import polars as pl
from pydantic import Field

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.stage import Records, stage
from stages._common.verdicts import evidence_of, verdict
from stages._selection.groups import Groups, group_columns, groups_of
from stages._selection.scores import Expression, scores
from stages.mix._phases import (
    Dependency,
    Difficulty,
    Levels,
    Phases,
    Reads,
    Shuffle,
    ThreePasses,
    dependency,
    difficulty,
    levels,
    phases_of,
    prerequisites_in_order,
    three_passes,
)

Method = Annotated[
    Levels | Phases | Dependency | ThreePasses | Difficulty, Field(discriminator="name")
]


def _reads(options: SimpleNamespace) -> list[str]:
    columns = group_columns(options.by)
    if isinstance(options.method, Levels):
        columns = columns + group_columns(options.method.interleave)
    return list(dict.fromkeys(columns))


def _check(options: SimpleNamespace) -> None:
    method = options.method
    if isinstance(method, Dependency):
        try:
            prerequisites_in_order(method.requires)
        except ValueError as error:
            raise OptionError("method.requires", str(error)) from None
    if isinstance(method, Difficulty) and method.pacing == "cyclic":
        if method.num_phases % (2 * method.cycles):
            raise OptionError(
                "method.num_phases",
                f"must be a multiple of 2 x cycles = {2 * method.cycles} with pacing: cyclic, "
                f"got {method.num_phases}",
                why="a cycle goes up and down in equal steps",
            )
    elif isinstance(method, Difficulty) and method.cycles != 1:
        what = f"must be left out with pacing: {method.pacing}, got {method.cycles}"
        raise OptionError("method.cycles", what)


@stage(
    version=1,
    scope="set",
    reads=_reads,
    adds={"phases": pl.List(pl.Int32), "positions": pl.List(pl.Int64)},
    files=True,
    check=_check,
)
def curriculum(
    ctx: Context,
    rows: Records,
    *,
    method: Method,
    by: Expression = "source",
    seed: int = 0,
) -> pl.DataFrame:
    """Say at which positions of a training each row is read, and in which phases.

    Adds `positions`, from 0 on over the whole curriculum, one for each time that the row is
    read, and `phases`, the phase of each of them, from 1 on. `train.sft` reads rows so with
    `order: positions`; `export.parquet` takes the columns along (`columns: [positions]`), and
    with `order_by: positions` writes the rows by their first position, for other trainers.
    Dropped: `not_read`, what no phase reads. Writes `curriculum.json`: for each phase the rows,
    how often rows are read, and that of each group.

    Args:
        rows: The rows to train on.
        method: `levels`, `phases`, `dependency`, `three_passes` or `difficulty`.
        by: `source`, a column or an SQL expression: the groups that `phases`, `dependency` and
            `three_passes` name, the level of `levels`, the score of `difficulty`.
        seed: Of the random orders within levels, groups and phases.

    Raises:
        UserError: A group is named that no row belongs to.

    Example:
        ```yaml
        ordered:
          uses: mix.curriculum
          needs: courses
          with: {by: level, method: {name: levels, interleave: topic}}
        shards:  {uses: export.parquet, needs: ordered, with: {columns: [positions]}}
        trained: {uses: train.sft, needs: {shards: shards},
                  with: {model: base, num_train_epochs: 1, order: positions, packing: false}}
        ```

        >>> import tempfile
        >>> from pathlib import Path
        >>> ctx = Context.scratch(Path(tempfile.mkdtemp()))
        >>> rows = pl.DataFrame({"id": ["a", "b", "c"], "level": [3, 1, 2]})
        >>> curriculum(ctx, rows, by="level", method=Levels())["positions"].to_list()
        [[2], [0], [1]]
    """
    shuffle = Shuffle(rows["id"], seed)
    if isinstance(method, Difficulty):
        groups, labels = None, pl.Series(rows["id"])
        reads = difficulty(scores(rows, by), method, shuffle)
    else:
        groups = groups_of(rows, by)
        labels = groups.labels()
        reads = _reads_of(rows, groups, method, shuffle)
    _write(ctx, reads, groups)
    listed = _listed(reads).group_by("row", maintain_order=True).agg("phases", "positions")
    every = pl.DataFrame({"row": np.arange(len(rows)), "group": labels})
    return every.join(listed, on="row", how="left", maintain_order="left").select(
        "phases",
        "positions",
        *verdict(pl.col("positions").is_null(), "not_read", evidence_of("group")),
    )


def _reads_of(
    rows: pl.DataFrame,
    groups: Groups,
    method: Levels | Phases | Dependency | ThreePasses,
    shuffle: Shuffle,
) -> Reads:
    """The rows that each phase reads, in order."""
    match method:
        case Levels():
            return levels(rows, groups, method, shuffle)
        case Phases():
            return phases_of(groups, method, shuffle)
        case Dependency():
            return dependency(groups, method, shuffle)
        case ThreePasses():
            return three_passes(groups, method, shuffle)


def _listed(reads: Reads) -> pl.DataFrame:
    """All readings in order: `row`, `phases` and `positions` of each."""
    sizes = [len(part) for part in reads]
    return pl.DataFrame(
        {
            "row": np.concatenate([*reads, np.empty(0, np.int64)]),
            "phases": np.repeat(np.arange(1, len(reads) + 1), sizes),
            "positions": np.arange(sum(sizes)),
        },
        {"row": pl.Int64, "phases": pl.Int32, "positions": pl.Int64},
    )


def _write(ctx: Context, reads: Reads, groups: Groups | None) -> None:
    """Write `curriculum.json`, an entry for each phase."""
    entries = []
    for number, part in enumerate(reads, 1):
        entry: dict[str, object] = {
            "phase": number,
            "rows": len(np.unique(part)),
            "reads": len(part),
        }
        if groups is not None:
            counts = np.bincount(groups.codes[part], minlength=len(groups.names))
            entry["groups"] = {n: int(c) for n, c in zip(groups.names, counts, strict=True) if c}
        entries.append(entry)
    text = json.dumps(entries, indent=1, ensure_ascii=False)
    (ctx.files / "curriculum.json").write_text(text + "\n", "utf-8")
