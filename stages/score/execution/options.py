"""Options that all methods share that run programs, and where their texts stand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import polars as pl

from pipeline.types import Count, PositiveFloat, option_group
from stages._sandbox.execute import Ended, Limits, Run, execute
from stages._sandbox.isolation import isolation

_EXTRA = "extra."


@option_group
class Sandboxed:
    """What a program may do, and in what it runs.

    Args:
        timeout: Seconds by the clock, for a program with all its cases, or for each input.
        memory_mb: Memory of a program's processes.
        processes: Processes of a program at a time.
        scratch_mb: Size of the only folder that it can write to, and of a file.
        output_kb: Size of its standard output, of its standard error, and of what tests record.
        packages: Whether it may import the packages of this environment (numpy needs `memory_mb`
            of 2048 and more); else it has Python's standard library.
        unsafe: Run programs although nothing on this machine isolates them: limits alone then
            hold, and a program can read and delete what its user can.
    """

    timeout: PositiveFloat = 10
    memory_mb: Count = 512
    processes: Count = 16
    scratch_mb: Count = 16
    output_kb: Count = 256
    packages: bool = False
    unsafe: bool = False

    @property
    def limits(self) -> Limits:
        """The limits of a run."""
        return Limits(
            seconds=self.timeout,
            memory_mb=self.memory_mb,
            processes=self.processes,
            scratch_mb=self.scratch_mb,
            output_kb=self.output_kb,
        )

    def execute(self, jobs: Sequence[Sequence[Run]]) -> list[list[Ended]]:
        """Run jobs, as many at a time as there are cores for this process.

        Args:
            jobs: Runs that share a sandbox.
        """
        if not any(jobs):
            return [[] for _ in jobs]
        chosen = isolation(self.unsafe)
        return execute(jobs, self.limits, chosen, self.packages, pl.thread_pool_size())


def column_of(source: str) -> str:
    """The column that is read for a source: itself, or `extra` for `extra.FIELD`.

    Args:
        source: A column, or a field of the source's own.
    """
    return "extra" if source.startswith(_EXTRA) else source


def values_of(rows: pl.DataFrame, source: str) -> list[Any]:
    """The values of a column, or of a field of the rows' `extra`.

    Args:
        rows: The rows.
        source: A column, or `extra.FIELD`.

    >>> values_of(pl.DataFrame({"extra": ['{"gold": 4}', None]}), "extra.gold")
    [4, None]
    """
    values = rows[column_of(source)].to_list()
    if not source.startswith(_EXTRA):
        return values
    fields = [json.loads(value) if value else {} for value in values]
    return [field.get(source.removeprefix(_EXTRA)) for field in fields]


def texts_of(value: Any) -> list[str]:
    """A value that is a text or several, as a list without the empty ones.

    Args:
        value: A text, a list, the JSON of a list, or None.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            return [value]
    items = value if isinstance(value, list) else [value]
    return [item for item in items if isinstance(item, str) and item.strip()]
