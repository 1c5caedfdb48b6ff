"""Many rows of real texts, about 1.2 kB each, made by a script: what runs at scale are fed.

    python -m tests.bench.large_rows 1000000 rows.jsonl.gz

Each row has an instruction and an answer of the Self-Instruct sample and passages of the Rust
book's, in which words drawn by the row's number are put in the place of others. A twentieth of
the rows repeat an earlier one but for a few words (near-duplicates), a hundredth exactly.
"""

from __future__ import annotations

import gzip
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pipeline.stage import ROOT

SAMPLES: Final = ROOT / "data" / "samples"
LENGTH: Final = 1_200
"""Characters of a row, about."""

EDITED: Final = 0.15
"""How many of a row's words are drawn anew."""

NEAR, EQUAL = 0.05, 0.01
"""The shares of rows that are near-duplicates of an earlier one, and equal to one."""


def rows(count: int, seed: int = 0) -> Iterator[dict[str, str]]:
    """The rows: a function of their number, so that fewer rows are the first of more.

    Args:
        count: How many.
        seed: Another one draws other rows.
    """
    questions = [(row["instruction"], row["output"]) for row in _sample("self_instruct.jsonl.gz")]
    words = " ".join(row["text"] for row in _sample("rust_book.jsonl.gz")).split()
    vocabulary = sorted({*words})
    for number in range(count):
        source = random.Random(f"{seed}:{number}")
        kind = source.random()
        if number and kind < NEAR + EQUAL:
            row = _row(source.randrange(number), seed, questions, words, vocabulary)
            if kind < NEAR:
                row["output"] = f"{row['output']} {source.choice(vocabulary)}"
        else:
            row = _row(number, seed, questions, words, vocabulary)
        yield row


def _row(
    number: int,
    seed: int,
    questions: list[tuple[str, str]],
    words: list[str],
    vocabulary: list[str],
) -> dict[str, str]:
    source = random.Random(f"row {seed}:{number}")
    instruction, output = source.choice(questions)
    needed = max(LENGTH - len(instruction) - len(output), 200) // 6
    start = source.randrange(len(words) - needed)
    passage = words[start : start + needed]
    for place in source.sample(range(needed), int(needed * EDITED)):
        passage[place] = source.choice(vocabulary)
    return {
        "instruction": f"{instruction} ({passage[0]})",
        "output": f"{output} {' '.join(passage)}",
    }


def _sample(name: str) -> list[dict[str, str]]:
    with gzip.open(SAMPLES / name, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write(path: Path, count: int, seed: int = 0) -> None:
    """Write rows as JSON lines.

    Args:
        path: The file, compressed where its name ends with .gz.
        count: How many.
        seed: Another one draws other rows.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8") as file:
        for row in rows(count, seed):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[2]), int(sys.argv[1]))
