"""Tasks for the harness out of evaluation items whose layout is known.

- choices and the letter of the right one (MMLU, ARC): the letters are scored, " A" to " D";
- a right answer and wrong ones (TruthfulQA, its one right answer): the texts are scored; where the
  right one stands follows from the item's id;
- a question with a solution that ends in `#### 42` (GSM8K): an answer is generated, and its last
  number counts;
- the head of a function with test code (HumanEval): the rest is generated, and the whole is put
  through the tests in a sandbox (`programs`);
- a question with a short answer: an answer is generated and compared without case, punctuation.

Items of bundled benchmarks have neither answer letters nor test code, since these are no texts to
search a pool for; they are read from the same file. Judged prompts (MT-Bench) are left to
`evaluate.judge`, constraints (IFEval) to `evaluate.constraints`.
"""

from __future__ import annotations

import gzip
import json
import re
import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any, Final, Literal

import polars as pl
import yaml

from pipeline.errors import UserError
from stages._benchmarks.programs import PASS, SCORED_BY
from stages._sandbox.cases import cases_of

Kind = Literal["choice", "number", "short", "code"]

_BUNDLED: Final = Path(__file__).resolve().parents[2] / "data" / "benchmarks"
MMLU: Final = _BUNDLED / "mmlu_test.parquet"
HUMANEVAL: Final = _BUNDLED / "HumanEval.jsonl.gz"

OTHER_STAGES: Final = {
    "ifeval": "constraints are checked by evaluate.constraints",
    "mt_bench": "answers without a right one are compared by evaluate.judge",
    "vicuna_bench": "answers without a right one are compared by evaluate.judge",
}
UNKNOWN: Final = "no layout is known in which it has a right answer"

LETTERS: Final = string.ascii_uppercase
_LETTER_FIELDS: Final = "abcdefghij"
"""Fields of choices by letter, as many as follow each other."""

_QUESTIONS: Final = ("question", "problem", "prompt", "query", "question_stem", "input")
_ANSWERS: Final = ("answer", "best_answer", "correct_answer", "target", "label")
_WRONG: Final = ("incorrect_answers", "incorrect_answer", "distractor", "distractors")
_CHOICES: Final = ("choices", "options", "endings")
_NUMBER: Final = re.compile(r"####\s*(\S.*?)\s*\Z")
_MAX_SHORT_WORDS: Final = 12
"""A longer answer is compared by no one's exact match."""


@dataclass(frozen=True)
class ItemTask:
    """A task made of items.

    Attributes:
        name: Its name.
        kind: How it is scored.
        docs: What is evaluated.
        examples: What few-shot examples are drawn from; empty: the other docs.
    """

    name: str
    kind: Kind
    docs: list[dict[str, Any]]
    examples: list[dict[str, Any]] = field(default_factory=list)

    def write(self, folder: Path, max_tokens: int) -> Path:
        """Write the task for the harness, and return its YAML file.

        Args:
            folder: Where.
            max_tokens: Limit of a generated answer in tokens.
        """
        files = {"test": self.docs} | ({"examples": self.examples} if self.examples else {})
        for split, docs in files.items():
            lines = (json.dumps(doc, ensure_ascii=False) + "\n" for doc in docs)
            (folder / f"{self.name}.{split}.jsonl").write_text("".join(lines), "utf-8")
        config = {
            "task": self.name,
            "dataset_path": "json",
            "dataset_kwargs": {
                "data_files": {split: f"{self.name}.{split}.jsonl" for split in files}
            },
            "test_split": "test",
            "fewshot_split": "examples" if self.examples else "test",
            "doc_to_text": "prompt",
            "doc_to_target": "gold",
            **_scoring(self.kind, max_tokens),
        }
        path = folder / f"{self.name}.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), "utf-8")
        return path


def _scoring(kind: Kind, max_tokens: int) -> dict[str, Any]:
    if kind == "choice":
        metrics = [
            {"metric": name, "aggregation": "mean", "higher_is_better": True}
            for name in ("acc", "acc_norm")
        ]
        return {
            "output_type": "multiple_choice", "doc_to_choice": "choices", "metric_list": metrics,
        }  # fmt: skip
    exact = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
    common = {
        "output_type": "generate_until",
        "generation_kwargs": {
            "until": _UNTIL[kind], "do_sample": False, "max_gen_toks": max_tokens,
        },
    }  # fmt: skip
    if kind == "code":
        return common | {
            "metric_list": [exact | {"metric": PASS}],
            "target_delimiter": "",
            "metadata": {"scored_by": SCORED_BY},
        }
    take_first = {"function": "take_first"}
    if kind == "short":
        stripped = {"function": "regex", "regex_pattern": r"(\S.*\S|\S)"}
        return common | {
            "metric_list": [exact | {"ignore_case": True, "ignore_punctuation": True}],
            "filter_list": [{"name": "none", "filter": [stripped, take_first]}],
        }
    last_number = {"function": "regex", "regex_pattern": r"(-?[0-9.,]*[0-9])", "group_select": -1}
    return common | {
        "metric_list": [exact | {"regexes_to_ignore": [",", r"\$"], "ignore_case": True}],
        "filter_list": [{"name": "last_number", "filter": [last_number, take_first]}],
        "fewshot_config": {"doc_to_target": "solution"},
    }


_UNTIL: Final[dict[Kind, list[str]]] = {
    "number": ["\nQuestion:", "\n\nQuestion:"],
    "short": ["\n"],
    # As in the paper: what begins at the margin is no part of the function.
    "code": ["\nclass", "\ndef", "\n#", "\nif", "\nprint"],
}


def item_tasks(
    items: pl.DataFrame, examples: pl.DataFrame | None
) -> tuple[list[ItemTask], dict[str, str]]:
    """The tasks of the items, and by benchmark why others have none.

    Args:
        items: Evaluation items.
        examples: Items of the same benchmarks for few-shot examples.

    Example:
        >>> texts = [{"name": "question", "text": "2 + 2?"}, {"name": "answer", "text": "4"}]
        >>> items = pl.DataFrame({"id": ["i"], "benchmark": ["sums"], "item": ["0"],
        ...                       "texts": [texts]})
        >>> (task,), left = item_tasks(items, None)
        >>> task.kind, task.docs[0]["prompt"], task.docs[0]["gold"], left
        ('short', 'Question: 2 + 2?\\nAnswer:', '4', {})
    """
    shots = _by_kind(examples) if examples is not None else {}
    docs = _by_kind(items)
    read = Counter(benchmark for (benchmark, _), of_kind in docs.items() for _ in of_kind)
    left = {
        name: _left(name, number, number - read[name])
        for name, number in sorted(Counter(items["benchmark"].to_list()).items())
        if read[name] < number
    }
    kinds: dict[str, int] = {}
    for benchmark, _ in docs:
        kinds[benchmark] = kinds.get(benchmark, 0) + 1
    tasks = []
    for (benchmark, kind), of_kind in docs.items():
        name = benchmark if kinds[benchmark] == 1 else f"{benchmark}_{kind}"
        tasks.append(
            ItemTask(re.sub(r"\W+", "_", name), kind, of_kind, shots.get((benchmark, kind), []))
        )
    names = [task.name for task in tasks]
    if twice := sorted(name for name in {*names} if names.count(name) > 1):
        raise UserError(
            f"benchmarks must have names that differ in letters or digits, got {twice[0]} twice",
            hint="give one of them another name in load.benchmarks",
        )
    return tasks, left


def _left(name: str, items: int, unread: int) -> str:
    """Why a benchmark, or some of its items, have no task."""
    why = OTHER_STAGES.get(name, UNKNOWN)
    return why if unread == items else f"{unread:,} of {items:,} items: {why}"


def _by_kind(items: pl.DataFrame) -> dict[tuple[str, Kind], list[dict[str, Any]]]:
    docs: dict[tuple[str, Kind], list[dict[str, Any]]] = {}
    for id_, benchmark, number, texts in (
        items.sort("id").select("id", "benchmark", "item", "texts").iter_rows()
    ):
        named = [(str(t["name"]), str(t["text"])) for t in texts or ()]
        read = _doc(id_, benchmark, number, named)
        if read is not None:
            kind, doc = read
            doc |= {"item": id_, "texts": [text for _, text in named]}
            docs.setdefault((benchmark, kind), []).append(doc)
    return dict(sorted(docs.items()))


def _doc(
    id_: str, benchmark: str, number: str, named: Sequence[tuple[str, str]]
) -> tuple[Kind, dict[str, Any]] | None:
    """How an item is scored, and what the harness needs of it; None where no layout fits."""
    if benchmark in OTHER_STAGES:
        return None
    fields = _bundled(benchmark, number, dict(named)) or _fields(named)
    if all(fields.get(name) for name in ("prompt", "test", "entry_point")):
        return _function({name: texts[0] for name, texts in fields.items()})
    question = next((fields[name][0] for name in _QUESTIONS if fields.get(name)), "")
    answer = next((fields[name][0] for name in _ANSWERS if fields.get(name)), "")
    if not question.strip() or not answer.strip():
        return None
    choices = next((fields[name] for name in _CHOICES if fields.get(name)), None)
    lettered = takewhile(fields.__contains__, _LETTER_FIELDS)
    choices = choices or [fields[name][0] for name in lettered]
    wrong = [part for name in _WRONG for text in fields.get(name, ()) for part in _parts(text)]
    if choices:
        return _lettered(question, choices, answer)
    if any(text != answer for text in wrong):
        return "choice", _among(id_, question, answer, wrong)
    prompt = f"Question: {question}\nAnswer:"
    if final := _NUMBER.search(answer):
        gold = final[1].replace(",", "")
        return "number", {"prompt": prompt, "gold": gold, "solution": answer}
    if len(answer.split()) <= _MAX_SHORT_WORDS:
        return "short", {"prompt": prompt, "gold": answer}
    return None


def _fields(named: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """Texts by name, those of a list together."""
    fields: dict[str, list[str]] = {}
    for name, text in named:
        bare = re.sub(r"_\d+\Z", "", re.sub(r"[\W_]+", "_", name.strip().lower()))
        fields.setdefault(bare, []).append(text)
    return fields


def _parts(text: str) -> Iterator[str]:
    return (part.strip() for part in re.split(r"[;\n]", text) if part.strip())


def _lettered(
    question: str, choices: Sequence[str], answer: str
) -> tuple[Kind, dict[str, Any]] | None:
    """A question whose choices have letters; None where the answer is none of them, or two."""
    letters = list(LETTERS[: len(choices)])
    key = answer.strip().strip("().").upper()
    right = {letters.index(key)} if key in letters else set()
    right |= {list(choices).index(answer)} if answer in choices else set()
    if len(right) != 1 or not 1 < len(choices) <= len(LETTERS):
        return None
    (gold,) = right
    listed = "\n".join(f"{a}. {text}" for a, text in zip(letters, choices, strict=True))
    prompt = f"Question: {question}\n{listed}\nAnswer:"
    return "choice", {"prompt": prompt, "choices": letters, "gold": gold}


def _among(id_: str, question: str, answer: str, wrong: Sequence[str]) -> dict[str, Any]:
    """A question of which whole answers are scored."""
    others = [text for text in dict.fromkeys(wrong) if text != answer]
    gold = int(id_[:8], 16) % (len(others) + 1) if re.match(r"[0-9a-f]{8}", id_) else 0
    choices = [*others[:gold], answer, *others[gold:]]
    return {"prompt": f"Question: {question}\nAnswer:", "choices": choices, "gold": gold}


def _function(fields: Mapping[str, str]) -> tuple[Kind, dict[str, Any]] | None:
    """A function to complete; None where its tests cannot be read."""
    doc = {name: fields[name] for name in ("prompt", "test", "entry_point")}
    if cases_of(doc["test"], doc["entry_point"]) is None:
        return None
    return "code", doc | {"gold": fields.get("canonical_solution", "")}


def _bundled(benchmark: str, number: str, named: Mapping[str, str]) -> dict[str, list[str]] | None:
    """An item of the bundled MMLU or HumanEval with its answer or tests; None for any other."""
    if benchmark == "humaneval":
        own = _humaneval().get(number)
        return own if own and own["prompt"] == [named.get("prompt")] else None
    if benchmark != "mmlu" or not number.isdigit():
        return None
    rows = _mmlu()
    if int(number) >= len(rows):
        return None
    row = rows.row(int(number), named=True)
    if row["question"] != named.get("question"):
        return None
    return {
        "question": [row["question"]],
        "choices": [row[letter] for letter in "ABCD"],
        "answer": [row["answer"]],
    }


@cache
def _humaneval() -> dict[str, dict[str, list[str]]]:
    with gzip.open(HUMANEVAL, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return {row["task_id"]: {name: [text] for name, text in row.items()} for row in rows}


@cache
def _mmlu() -> pl.DataFrame:
    from pipeline.store.parquet import read_frame

    return read_frame(MMLU)
