"""Programs whose output is compared: with an expected text, or as a final answer.

The expected output never enters the sandbox. With `compare: answer` this is program of thought: a
program that computes the answer of a question.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import polars as pl

from pipeline.types import NonEmpty, option_group
from schemas.records import response
from stages._sandbox.blocks import Blocks, program_of
from stages._sandbox.execute import Ended, Run
from stages._sandbox.results import (
    NOTHING,
    UNPARSED,
    Case,
    Result,
    combined,
    cut_short,
    exited,
)
from stages._text.answers import equal
from stages.score.execution.options import Sandboxed, column_of, values_of


@option_group
class Program(Sandboxed):
    """The output of the answer's program against an expected one.

    Args:
        name: The method.
        expected: The column, or `extra.FIELD`, of the expected output: a text, or a list of
            texts, one a case. Numbers count as their text.
        stdin: The column, or `extra.FIELD`, of what the program reads: a text, or a list of as
            many, else the row is `unparsed`. Of a null nothing is known: that case is left out.
        compare: `lines`, without white space at the ends of lines and of the output; `exact`;
            `answer`, as short answers (see `method: answer`), the last line that is not blank.
        languages: The names behind the fences of a program's blocks.
        blocks: Which of an answer's blocks are the program.
        command: For programs that are not Python's: the command line, in which `{file}` is the
            program's file. What it starts must lie in /usr.
        file_name: The name of the program's file.
    """

    name: Literal["program"] = "program"
    expected: str = "expected_output"
    stdin: str | None = None
    compare: Literal["lines", "exact", "answer"] = "lines"
    languages: Annotated[tuple[str, ...], NonEmpty] = ("python", "py", "python3")
    blocks: Blocks = "all"
    command: tuple[str, ...] = ()
    file_name: str = "program"

    def __post_init__(self) -> None:
        if self.command and "{file}" not in self.command:
            raise ValueError(f"command must hold {{file}}, got {list(self.command)}")
        if "/" in self.file_name:
            raise ValueError(f"file_name must be a name without a folder, got {self.file_name}")

    @property
    def columns(self) -> list[str]:
        """The columns that it reads."""
        sources = [self.expected, *([self.stdin] if self.stdin else [])]
        return ["messages", *map(column_of, sources)]

    def run(self, rows: pl.DataFrame) -> list[Result]:
        """Run each row's program on each of its inputs."""
        answers = rows.select(response()).to_series().to_list()
        expected = values_of(rows, self.expected)
        inputs = values_of(rows, self.stdin) if self.stdin else [""] * len(rows)
        pairs = [_pairs(stdin, value) for stdin, value in zip(inputs, expected, strict=True)]
        programs = [
            program_of(answer, self.languages, self.blocks) if answer else None
            for answer in answers
        ]
        jobs = [
            [self._run(program, stdin) for stdin, _ in cases or []] if program else []
            for program, cases in zip(programs, pairs, strict=True)
        ]
        results = []
        for answer, cases, ended in zip(answers, pairs, self.execute(jobs), strict=True):
            if not answer or cases == []:
                results.append(NOTHING)
            elif not ended or cases is None:
                results.append(UNPARSED)
            else:
                outputs = [output for _, output in cases]
                judged = [self._case(end, text) for end, text in zip(ended, outputs, strict=True)]
                results.append(combined(judged))
        return results

    def _run(self, program: str, stdin: str) -> Run:
        if not self.command:
            return Run("script", source=program, stdin=stdin)
        command = [part.replace("{file}", self.file_name) for part in self.command]
        return Run("command", stdin=stdin, files={self.file_name: program}, command=command)

    def _case(self, ended: Ended, expected: str) -> Case:
        cut = cut_short(ended, self.limits)
        if cut is not None or ended.exit:
            outcome, cause = cut if cut is not None else exited(ended)
            return outcome, cause
        if self.compare == "answer":
            lines = ended.stdout.strip().splitlines() or [""]
            is_equal = equal(lines[-1], expected)
            if is_equal is None:
                return "unparsed", f"its last line is {lines[-1][:100]!r}"
            return ("pass", None) if is_equal else ("fail", lines[-1])
        if self.compare == "lines":
            is_right = _lines(ended.stdout) == _lines(expected)
        else:
            is_right = ended.stdout == expected
        return ("pass", None) if is_right else ("fail", f"its output is {ended.stdout[:100]!r}")


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip("\n ").splitlines()]


def _pairs(stdin: Any, expected: Any) -> list[tuple[str, str]] | None:
    """What a program reads and is to write in each case; None where lists differ in length.

    One text is read in every case. A case is left out where either side is null: it is unknown.
    """
    if expected is None or expected == "" or stdin is None:
        return []
    outputs = expected if isinstance(expected, list) else [expected]
    inputs = stdin if isinstance(stdin, list) else [stdin] * len(outputs)
    if len(inputs) != len(outputs):
        return None
    pairs = zip(map(_text, inputs), map(_text, outputs), strict=True)
    return [(read, written) for read, written in pairs if read is not None and written is not None]


def _text(item: Any) -> str | None:
    """A text as it is; a number, a truth value as Python prints them; a list or object as JSON."""
    if item is None or isinstance(item, str):
        return item
    return str(item) if isinstance(item, bool) else json.dumps(item)
