"""What paraphrase decontamination is calibrated and measured on.

Every file is on one side: thresholds are chosen on the development files alone
(`THRESHOLDS` of `decontaminate.semantic`), and measured on the held-out ones. Innocent rows
of a kind are those that are most like the benchmark without holding its items; they are whole
conversations, so answers count too. A few of them do ask what an item asks ("How many ribs do
humans have?"), and are counted as false all the same.

Rephrased by hand, for this purpose: `tests/golden/rephrased_by_hand.jsonl`. Problems that differ
in their numbers are made of the paraphrases, by `other_numbers`.
"""

from __future__ import annotations

import csv
import gzip
import inspect
import json
import os
import random
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import polars as pl

from stages.decontaminate._judge import TaskType
from stages.decontaminate._numbers import SMALL
from tests.support.rows import DATA, conversations, json_lines

Split = Literal["development", "held-out"]

GOLDEN: Final = DATA.parent / "tests/golden"
SHARED: Final = Path(
    os.environ.get("GRISTMILL_SHARED_DATA", DATA.parent.parent / "shared" / "data")
)
"""Data sets that may not be shipped; without them those are left out."""

EXAMS: Final[dict[TaskType, str]] = {
    "math": "gsm8k",
    "number_substituted": "gsm8k",
    "code": "humaneval",
    "knowledge": "mmlu",
}

Texts = list[tuple[str, ...]]

_NUMBER_WORDS: Final = [word for word in SMALL if word not in ("zero", "one")]
_NUMBERS: Final = re.compile(
    rf"\d+(?:,\d{{3}})*(?:\.\d+)?|\b(?:{'|'.join(_NUMBER_WORDS)})\b", re.IGNORECASE
)


class Rows(NamedTuple):
    """Rows of one source.

    Attributes:
        name: What they are.
        kind: The type of the tasks that they are compared with: `EXAMS`.
        split: What they are used for.
        contaminated: Whether they are paraphrases, or innocent.
        read: Reads the turns of each row; FileNotFoundError without the data.
    """

    name: str
    kind: TaskType
    split: Split
    contaminated: bool
    read: Callable[[], Texts]

    def rows(self) -> pl.DataFrame:
        """The rows as records."""
        return conversations([row for row in self.read() if any(t.strip() for t in row)])


def sources() -> list[Rows]:
    """All sets whose data are there."""
    paraphrases = [
        ("GSM8K, LLM decontaminator", "math", "development", _golden("rephrase_gsm8k")),
        ("GSM8K, by hand", "math", "held-out", _by_hand("gsm8k", "held-out")),
        (
            "GSM8K, LLM decontaminator, other numbers",
            "number_substituted",
            "development",
            _with_other_numbers(_golden("rephrase_gsm8k")),
        ),
        (
            "GSM8K, by hand, other numbers",
            "number_substituted",
            "held-out",
            _with_other_numbers(_by_hand("gsm8k", "held-out")),
        ),
        (
            "GSM8K, other numbers",
            "number_substituted",
            "held-out",
            _with_other_numbers(_gsm8k_test),
        ),
        ("HumanEval, LLM decontaminator", "code", "development", _golden("humaneval_python")),
        ("HumanEval, by hand", "code", "held-out", _by_hand("humaneval", "held-out")),
        (
            "MMLU of 8 subjects, by hand",
            "knowledge",
            "development",
            _by_hand("mmlu", "development"),
        ),
        ("MMLU of 8 others, by hand", "knowledge", "held-out", _by_hand("mmlu", "held-out")),
        (
            "MMLU abstract algebra, LLM decontaminator",
            "knowledge",
            "held-out",
            _golden("rephrase_abstract_algebra"),
        ),
    ]
    innocents = [
        ("GSM8K train", "math", "development", _gsm8k_train),
        ("Auto-Evol GSM8K", "math", "held-out", _evolved),
        ("TheoremQA", "math", "held-out", _theorem_qa),
        ("GSM8K train", "number_substituted", "development", _gsm8k_train),
        ("Auto-Evol GSM8K", "number_substituted", "held-out", _evolved),
        ("TheoremQA", "number_substituted", "held-out", _theorem_qa),
        ("GPTeacher code", "code", "development", _pool("gpteacher_codegen.json.gz", 1200)),
        ("Code Alpaca", "code", "held-out", _pool("code_alpaca_2k.json.gz")),
        ("functions of Python's library", "code", "held-out", _functions),
        ("Alpaca, rows to 8,000", "knowledge", "development", _pool("alpaca_52k.json.gz", 0, 8000)),
        ("TruthfulQA", "knowledge", "development", _truthful_qa),
        ("ARC challenge", "knowledge", "held-out", _arc),
        ("Dolly", "knowledge", "held-out", _pool("dolly_3k_filtered.json.gz")),
        ("Self-Instruct", "knowledge", "held-out", _self_instruct),
        ("TheoremQA", "knowledge", "held-out", _theorem_qa),
    ]
    listed = [(*known, True) for known in paraphrases] + [(*known, False) for known in innocents]
    result = [Rows(name, kind, split, bad, read) for name, kind, split, read, bad in listed]
    return [rows for rows in result if _readable(rows)]


def _readable(rows: Rows) -> bool:
    try:
        return bool(rows.read())
    except FileNotFoundError:
        return False


def _golden(name: str) -> Callable[[], Texts]:
    return lambda: [(row["text"],) for row in json_lines(GOLDEN / f"{name}.jsonl.gz")]


def _by_hand(benchmark: str, split: Split) -> Callable[[], Texts]:
    def read() -> Texts:
        rows = json_lines(GOLDEN / "rephrased_by_hand.jsonl")
        return [(r["text"],) for r in rows if (r["benchmark"], r["split"]) == (benchmark, split)]

    return read


def _alpaca(row: dict[str, Any]) -> tuple[str, ...]:
    prompt = "\n\n".join(part for part in (row["instruction"], row.get("input")) if part)
    return prompt, row.get("output") or row.get("response") or ""


def _pool(name: str, first: int = 0, end: int | None = None) -> Callable[[], Texts]:
    return lambda: [_alpaca(row) for row in json_lines(SHARED / "pools" / name)[first:end]]


def _gsm8k_train() -> Texts:
    rows = json_lines(SHARED / "benchmarks/gsm8k_train.jsonl.gz")[1000:]
    return [(row["question"], row["answer"]) for row in rows]


def _gsm8k_test() -> Texts:
    return [(row["question"],) for row in json_lines(DATA / "benchmarks/gsm8k_test.jsonl.gz")]


def _with_other_numbers(read: Callable[[], Texts]) -> Callable[[], Texts]:
    """The texts that name numbers, with others in their place."""

    def other() -> Texts:
        changed = [(text, other_numbers(text)) for (text,) in read()]
        return [(new,) for text, new in changed if new != text]

    return other


def other_numbers(text: str) -> str:
    """A text in which every number, in digits or as a word, is another one.

    Example:
        >>> other_numbers("12 eggs and three pears for $1,250") != "12 eggs and three pears"
        True
    """
    draw = random.Random(text)

    def another(match: re.Match[str]) -> str:
        written = match.group()
        if written[0].isalpha():
            return draw.choice([word for word in _NUMBER_WORDS if word != written.lower()])
        value = float(written.replace(",", ""))
        new = value
        while new == value:
            new = max(2, round(value * draw.uniform(0.4, 2.6)) + draw.randint(0, 3))
        return f"{new:,}" if "," in written else f"{new}"

    return _NUMBERS.sub(another, text)


def _evolved() -> Texts:
    rows = json_lines(SHARED / "references/auto_evol_gsm8k_pairs.json.gz")
    return [(r["auto_evol"]["auto_inst"], r["auto_evol"]["auto_output"]) for r in rows]


def _theorem_qa() -> Texts:
    rows = json_lines(SHARED / "benchmarks/theoremqa_test.json.gz")
    return [(row["Question"], str(row["Answer"])) for row in rows]


def _arc() -> Texts:
    rows = json_lines(SHARED / "benchmarks/arc_challenge_test.json.gz")
    return [(row["question"].replace("\nOptions are:", ""), row["answer"]) for row in rows]


def _self_instruct() -> Texts:
    return [_alpaca(row) for row in json_lines(DATA / "samples/self_instruct.jsonl.gz")]


def _truthful_qa() -> Texts:
    with (DATA / "benchmarks/TruthfulQA.csv").open(encoding="utf-8-sig", newline="") as file:
        return [(row["Question"], row["Best Answer"]) for row in csv.DictReader(file)]


def _functions() -> Texts:
    """Functions of the standard library, each as an answer, with its docstring."""
    names = (
        "bisect heapq statistics textwrap difflib fractions random string shutil glob fnmatch "
        "calendar colorsys functools itertools collections operator os posixpath tempfile base64 "
        "json csv ast inspect tokenize datetime ipaddress urllib.parse html copy"
    )
    return [("Complete this function.", code) for name in names.split() for code in _sources(name)]


def _sources(module: str) -> Iterator[str]:
    for _, value in inspect.getmembers(import_module(module), inspect.isfunction):
        if value.__module__ == module and value.__doc__:
            with suppress(OSError):  # made at run time, such as the methods of a named tuple
                yield inspect.getsource(value)


def chinese() -> pl.DataFrame:
    """Chinese translations of MMLU's questions on abstract algebra."""
    body = gzip.decompress((GOLDEN / "rephrase_abstract_algebra_chinese.jsonl.gz").read_bytes())
    texts = [json.loads(line)["text"] for line in body.decode("utf-8").splitlines()]
    return conversations([(text,) for text in texts if text.strip()])
