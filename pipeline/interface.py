"""The pipeline in Python, for notebooks: `from pipeline import open_recipe`.

    run = open_recipe("my.yaml")
    run.run()
    run.rows("chosen")                        # polars
    run.dropped("unique", reason="duplicate")
    run.sample("chosen")                      # as a person reads rows
    run.explain("3f2a")

It reads what the command line reads and runs what it runs; a notebook shows each answer as
HTML. Objects of pandas, polars and `datasets` go in by `frames` (see `stages/load/frame.py`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from pipeline import DEFAULT_STORE
from pipeline.cli import tables
from pipeline.cli.row_cards import cards_text
from pipeline.errors import Exit, UserError
from pipeline.execution import history
from pipeline.execution.plan import select_steps
from pipeline.execution.progress import watch
from pipeline.execution.row_parts import RowParts, rows_in_parts
from pipeline.execution.runner import Runner
from pipeline.execution.sampled_rows import heading, sampled, with_reason
from pipeline.execution.snapshot import Snapshot, open_snapshot, release_named
from pipeline.html_view import cards_html, funnel_html, history_html, text_html
from pipeline.recipe.preview import preview
from pipeline.recipe.recipe import Recipe
from pipeline.store.frames import frame_override
from pipeline.store.hashing import digest
from pipeline.store.parquet import to_arrow
from pipeline.store.store import Store

if TYPE_CHECKING:
    import pandas
    from datasets import Dataset, DatasetDict

Part = Literal["kept", "dropped", "failed"]


def open_recipe(
    reference: str | Path,
    *,
    store: str | Path = DEFAULT_STORE,
    profile: str | None = None,
    overrides: Sequence[str] = (),
    frames: Mapping[str, Any] | None = None,
    limit: int | None = None,
) -> OpenRecipe:
    """Open a recipe or a release.

    Args:
        reference: A recipe's path or name, or a release: `NAME@VERSION`, `NAME`.
        store: The store's folder.
        profile: The profile of the recipe to apply.
        overrides: Changes of the recipe, as after `--set`: "stages.chosen.with.budget=500".
        frames: Rows for stages `load.frame` by the stage's name: a data frame of pandas or
            polars, a data set of `datasets`, an Arrow table or a list of dicts.
        limit: A preview: language models are asked about the first so many rows alone.

    Returns:
        The recipe with its rows, as far as it has run in that store.

    Raises:
        UserError: There is no such recipe or release, the recipe has mistakes, or an object in
            `frames` holds no rows that can be stored.
    """
    opened = Store(Path(store))
    stored = [frame_override(opened.root, name, rows) for name, rows in (frames or {}).items()]
    return OpenRecipe(str(reference), opened, [*overrides, *stored], profile, limit)


class OpenRecipe:
    """A recipe or a release with its rows. `open_recipe` makes it.

    Args:
        reference: The recipe's path or name, or `NAME@VERSION`.
        store: The store.
        overrides: What `--set` would change.
        profile: The profile that is applied.
        limit: The rows of a preview; None for a whole run.
    """

    def __init__(
        self,
        reference: str,
        store: Store,
        overrides: Sequence[str],
        profile: str | None,
        limit: int | None = None,
    ) -> None:
        self._reference, self._store = reference, store
        self._overrides, self._profile, self._limit = tuple(overrides), profile, limit
        self.title = self._snapshot().title

    def _snapshot(self) -> Snapshot:
        """The stages as they are now: other runs may have added to the store."""
        return open_snapshot(
            self._store, self._reference, self._overrides, self._profile, self._limit
        )

    def rows(
        self, stage: str, part: Part = "kept", columns: Sequence[str] | None = None
    ) -> pl.DataFrame:
        """The rows of a stage with all columns that are visible there, in id order.

        Args:
            stage: The stage's name in the recipe.
            part: Which of its rows.
            columns: The columns beside `id`; all without it.

        Raises:
            UserError: The stage has not run or gives files, or there is no such stage or column.
        """
        return self._snapshot().rows(stage, part, columns)

    def frame(
        self, stage: str, part: Part = "kept", columns: Sequence[str] | None = None
    ) -> pandas.DataFrame:
        """The same rows as a data frame of pandas.

        Args:
            stage: The stage's name in the recipe.
            part: Which of its rows.
            columns: The columns beside `id`; all without it.

        Raises:
            UserError: See `rows`.
        """
        return self.rows(stage, part, columns).to_pandas()

    def dataset(self, stage: str) -> Dataset | DatasetDict:
        """The rows of a stage, or the shards that an export wrote, as a data set of `datasets`.

        Args:
            stage: The stage's name in the recipe.

        Returns:
            A `Dataset`; of an export with several splits a `DatasetDict`.

        Raises:
            UserError: See `rows`; or the stage's files are no data set.
        """
        from datasets import Dataset, config, load_dataset

        snapshot = self._snapshot()
        artifact = snapshot.stage(stage).artifact
        _show_datasets()
        if artifact is None or not snapshot.stage(stage).uses.startswith("export."):
            return Dataset(to_arrow(snapshot.rows(stage)))
        # Of a folder with a card, `datasets` takes what the card says of files for the key of
        # its cache: all artifacts would share one entry.
        cache = Path(config.HF_DATASETS_CACHE) / "gristmill" / digest(artifact.manifest["files"])
        splits = load_dataset(str(artifact.verified_files()), cache_dir=str(cache))
        return next(iter(splits.values())) if len(splits) == 1 else splits

    def dropped(self, stage: str, reason: str | None = None) -> pl.DataFrame:
        """The rows that a stage dropped, with `drop_reason` and `evidence`.

        Args:
            stage: The stage's name in the recipe.
            reason: Those that were dropped for this reason; all without it.

        Raises:
            UserError: See `rows`; or the stage dropped no row for this reason.
        """
        rows = self.rows(stage, "dropped")
        return rows if reason is None else with_reason(rows, reason, stage)

    def failed(self, stage: str) -> pl.DataFrame:
        """The rows that failed in a stage: id, file, line and error."""
        return self.rows(stage, "failed")

    def sample(
        self,
        stage: str,
        number: int = 5,
        *,
        part: Part = "kept",
        reason: str | None = None,
        seed: int = 0,
    ) -> Sample:
        """A few rows as a person reads them: turns, scores, evidence with what it names.

        Args:
            stage: The stage's name in the recipe.
            number: How many rows.
            part: Which of its rows; dropped ones where there is a reason.
            reason: Rows that were dropped for this reason.
            seed: The same seed gives the same rows.

        Raises:
            UserError: See `dropped`.
        """
        snapshot = self._snapshot()
        part = part if reason is None else "dropped"
        rows = snapshot.rows(stage, part)
        rows = rows if reason is None else with_reason(rows, reason, stage)
        chosen = sampled(rows, number, seed)
        return Sample(chosen, snapshot, heading(len(chosen), len(rows), stage, part, reason))

    def explain(self, record: str) -> Explanation:
        """The history of one record through all stages.

        Args:
            record: Its id, or the beginning of it.

        Raises:
            UserError: No record has such an id, or several have.
        """
        return Explanation(history.explain(self._snapshot(), record))

    def status(self) -> dict[str, Any]:
        """The state and the counts of every stage, as `status --json` prints them."""
        return history.status(self._snapshot())

    def run(
        self,
        *stages: str,
        workers: int | None = None,
        accept_code: bool = False,
        partial: bool = False,
    ) -> RunResult:
        """Run what is missing, up to the named stages; all of them without any.

        Args:
            stages: Names of stages.
            workers: Processes for row-wise stages; one per core without it.
            accept_code: Reuse artifacts although the code of their stage changed.
            partial: Go on with what came once a budget is reached.

        Raises:
            UserError: Something that the user can fix. What is committed stays.
        """
        if release_named(self._store, self._reference):
            raise UserError(
                f"{self._reference} is a release and does not run",
                hint="open the recipe that it was made from",
            )
        recipe = Recipe.load(self._reference, self._overrides, self._profile)
        recipe = recipe if self._limit is None else preview(recipe, self._limit)
        progress = watch([step.name for step in select_steps(recipe, stages)])
        workers = workers or os.cpu_count() or 1
        runner = Runner(recipe, self._store, progress, workers, accept_code, partial=partial)
        try:
            code = runner.run(stages)
        finally:
            progress.close()
        names = runner.outputs.artifacts
        entries = [s for s in self.status()["stages"] if s["name"] in names]
        return RunResult(code, runner.ran, entries, recipe.name)

    def __repr__(self) -> str:
        return f"{self.title}\n{tables.funnel(self.status()['stages'])}"

    def _repr_html_(self) -> str:
        return funnel_html(self.title, self.status()["stages"])


@dataclass(frozen=True, repr=False)
class RunResult:
    """How a run ended.

    Attributes:
        code: `Exit.DONE`, `Exit.ROWS_FAILED` if rows failed in some stage, `Exit.BUDGET` if a
            partial run left rows out, or `Exit.WAITING` if stages wait for a provider's batches.
        ran: The stages that were computed and not reused, in order.
        stages: The entries of `status`, of all stages of the run.
        recipe: The recipe's name.
    """

    code: Exit
    ran: Sequence[str]
    stages: Sequence[Mapping[str, Any]]
    recipe: str

    def __repr__(self) -> str:
        return tables.funnel(self.stages, self.ran)

    def _repr_html_(self) -> str:
        entries = [{**s, "state": tables.what_ran(s, self.ran)} for s in self.stages]
        return funnel_html(self.recipe, entries)


class Explanation(dict[str, Any]):
    """The history of a record: `id` and `history`, as `explain --json` prints them."""

    def __repr__(self) -> str:
        return tables.record_history(self)

    def _repr_html_(self) -> str:
        return history_html(self, tables.REPEATED)


@dataclass(frozen=True, repr=False)
class Sample:
    """A few rows to read.

    Attributes:
        rows: The rows, with all their columns.
        title: What they are.
    """

    rows: pl.DataFrame
    _snapshot: Snapshot
    title: str

    def __repr__(self) -> str:
        return (
            f"{len(self.rows):,} rows of {self.title}\n{cards_text(self._parts(), len(self.rows))}"
        )

    def _repr_html_(self) -> str:
        return cards_html(self._parts(), self.title)

    def _parts(self) -> Iterator[RowParts]:
        return rows_in_parts(self.rows, self._snapshot.artifacts.values())


def _show_datasets() -> None:
    """Let a notebook show data sets as features and first rows: they have no view themselves."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        formatter = shell.display_formatter.formatters["text/html"]
        formatter.for_type_by_name("datasets.arrow_dataset", "Dataset", _dataset_html)
        formatter.for_type_by_name("datasets.dataset_dict", "DatasetDict", _splits_html)


def _splits_html(splits: DatasetDict) -> str:
    views = (f"<h4>{text_html(name)}</h4>{_dataset_html(split)}" for name, split in splits.items())
    return "".join(views)


def _dataset_html(dataset: Dataset) -> str:
    first = pl.from_arrow(dataset.select(range(min(5, len(dataset)))).with_format("arrow")[:])
    assert isinstance(first, pl.DataFrame)
    features = ", ".join(dataset.features)
    about = f"Dataset of {len(dataset):,} rows: {features}"
    return f"<p>{text_html(about)}</p>{first._repr_html_()}"
