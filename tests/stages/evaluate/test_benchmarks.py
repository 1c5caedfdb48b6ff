"""evaluate.benchmarks: the harness scores what engines say, and nothing is run twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from numpy.typing import NDArray

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from pipeline.models import LanguageModel, Scored
from pipeline.models.counting import CountingEngine, counting
from stages._benchmarks import run
from stages._benchmarks.layouts import UNKNOWN, item_tasks
from stages._benchmarks.scores import letters
from stages.evaluate.benchmarks import benchmarks
from stages.load.benchmarks import benchmarks as load
from tests.support.options import NO_MODEL
from tests.support.rows import DATA, conversations, exam, json_lines
from tests.support.scripted import Answer, Scripted, ScriptedContext

pytest.importorskip("lm_eval")

TINYLM = str(DATA / "models/tinylm")
RIVER, TOWN = "Rhine", "Danube river"


@cache
def _tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(TINYLM)


class Likelihoods(Scripted):
    """A scripted engine whose continuations have likelihoods by their text."""

    def __init__(self, script: Callable[[str], Answer], sums: dict[str, float]) -> None:
        super().__init__(script)
        self.sums, self.scored = sums, 0

    @property
    def tokenizer(self) -> Any:  # type: ignore[override]
        return _tokenizer()

    def loglikelihood(self, sequences: Sequence[Scored]) -> list[NDArray[np.float32]]:
        self.scored += len(sequences)
        scores = []
        for one in sequences:
            text = _tokenizer().decode(one.tokens[one.start :]).strip()
            n = len(one.tokens) - one.start
            scores.append(np.full(n, self.sums.get(text, -9.0) / n, dtype=np.float32))
        return scores


def engine_context(
    ctx: Context, script: Callable[[str], Answer] = lambda _: ("", "stop"), **sums: float
) -> ScriptedContext:
    context = ScriptedContext(ctx.files, ctx.work, ctx.store)
    context.engine = Likelihoods(script, {k.replace("_", " "): v for k, v in sums.items()})
    return context


def report(ctx: Context) -> dict[str, Any]:
    return json.loads((ctx.files / "benchmarks.json").read_text())  # type: ignore[no-any-return]


def documents(ctx: Context) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (ctx.files / "documents.jsonl").read_text().splitlines()]


RIVERS = exam("rivers", [{"question": "Which one?", "answer": TOWN, "incorrect_answers": RIVER}])
LETTERS = exam(
    "quiz",
    [
        {"question": f"Number {n} of them?", "A": "one", "B": "two", "answer": "AB"[n % 2]}
        for n in range(4)
    ],
)


def test_a_sum_decides_acc_and_characters_decide_acc_norm(ctx: Context) -> None:
    context = engine_context(ctx, Rhine=-4.0, Danube_river=-6.0)
    benchmarks(context, RIVERS, model=NO_MODEL)
    scores = report(ctx)["columns"]["model"]["rivers"]["metrics"]
    assert (len(RIVER), len(TOWN)) == (5, 12)
    assert (scores["acc"]["value"], scores["acc_norm"]["value"]) == (0.0, 1.0)
    (document,) = documents(ctx)
    assert sorted(document["loglikelihoods"]) == pytest.approx([-6.0, -4.0], abs=1e-5)


def test_a_judge_of_one_letter_is_seen_as_biased(ctx: Context) -> None:
    context = engine_context(ctx, A=-1.0, B=-2.0)
    benchmarks(context, LETTERS, model=NO_MODEL, base=NO_MODEL, base_shots=2)
    result = report(ctx)
    model, base = (result["columns"][name]["quiz"] for name in ("model", "base"))
    assert (model["shots"], base["shots"]) == (0, 2)
    acc = model["metrics"]["acc"]
    assert (acc["value"], acc["documents"]) == (0.5, 4)
    assert acc["stderr"] == pytest.approx(np.std([0, 0, 1, 1], ddof=1) / 2)
    assert model["letters"]["A"] == {"gold": 0.5, "predicted": 1.0, "recall": 1.0}
    assert model["letters"]["recall_deviation"] == 0.5
    assert "± 0.2887" in (ctx.files / "benchmarks.md").read_text()


def test_letters_are_no_texts() -> None:
    assert letters([{"choices": ["Rhine", "Rome"], "gold": 0, "predicted": 0}]) is None


def test_contaminated_documents_are_reported_by_themselves(ctx: Context) -> None:
    text = "the first of all the rivers that a ship can sail from spring to mouth in a week"
    items = exam(
        "quiz",
        [
            {"question": f"Is it {text}?", "A": "yes", "B": "no", "answer": "A"},
            *({"question": f"And {n}?", "A": "yes", "B": "no", "answer": "B"} for n in range(3)),
        ],
    )
    training = conversations([("Tell me.", f"It is {text}, they say."), ("And?", "So.")])
    context = engine_context(ctx, A=-1.0, B=-2.0)
    benchmarks(context, items, training=training, contaminated=items.tail(1), model=NO_MODEL)
    scores = report(ctx)["columns"]["model"]["quiz"]
    acc = scores["metrics"]["acc"]
    assert scores["contaminated"] == 2
    assert (acc["value"], acc["clean"]["value"], acc["contaminated"]["value"]) == (0.25, 0, 0.5)
    assert (acc["clean"]["documents"], acc["contaminated"]["documents"]) == (2, 2)
    flagged = {line["item"] for line in documents(ctx) if line["contaminated"]}
    assert flagged == {items["id"][0], items["id"][-1]}


def test_generated_answers_are_compared_by_their_last_number_or_their_words(ctx: Context) -> None:
    sums = [{"question": f"What is {n} and {n}?", "answer": f"Add.\n#### {2 * n}"} for n in (1, 2)]
    towns = [{"question": "Which town?", "answer": "Bonn"}]
    items = pl.concat([exam("sums", sums), exam("towns", towns)])

    def script(text: str) -> Answer:
        last = text.rpartition("Question: ")[2]
        return (" BONN." if "town" in last else " So 1 and 1 make 2", "stop")

    benchmarks(
        engine_context(ctx, script), items, model=NO_MODEL, groups={"all": ("sums", "towns")}
    )
    result = report(ctx)
    scores = {name: of["metrics"] for name, of in result["columns"]["model"].items()}
    assert scores["sums"]["exact_match,last_number"]["value"] == 0.5
    assert scores["towns"]["exact_match"]["value"] == 1.0
    assert result["groups"]["model"]["all"]["value"] == 0.75


def test_an_interrupted_evaluation_goes_on_with_the_next_task(ctx: Context) -> None:
    items = pl.concat([RIVERS, LETTERS])
    first = engine_context(ctx, A=-1.0)
    benchmarks(first, items, model=NO_MODEL)
    done = (ctx.files / "benchmarks.json").read_bytes()
    again = engine_context(ctx, A=-1.0)
    benchmarks(again, items, model=NO_MODEL)
    assert again.engine.scored == 0  # type: ignore[attr-defined]
    assert (ctx.files / "benchmarks.json").read_bytes() == done
    results = list(ctx.work.glob("*.json"))
    assert len(results) == 2
    results[0].unlink()
    partly = engine_context(ctx, A=-1.0)
    benchmarks(partly, items, model=NO_MODEL)
    assert 0 < partly.engine.scored < first.engine.scored  # type: ignore[attr-defined]
    assert (ctx.files / "benchmarks.json").read_bytes() == done


class Counted(Context):
    """Every model of which is one that counts requests."""

    engine: CountingEngine

    def open(self, model: Any) -> Any:
        return self.engine


def test_requests_are_counted_and_likelihoods_are_none(tmp_path: Path) -> None:
    sums = [{"question": f"What is {n} and {n}?", "answer": f"#### {2 * n}"} for n in range(3)]
    context = Counted.scratch(tmp_path)
    context.engine = CountingEngine(LanguageModel(model="any"))
    with counting():
        benchmarks(context, pl.concat([exam("sums", sums), LETTERS]), model=NO_MODEL, base=NO_MODEL)
    assert context.engine.count.requests == 6


def test_an_answer_that_failed_is_no_wrong_one(ctx: Context) -> None:
    items = exam("towns", [{"question": "Which town?", "answer": "Bonn"}])
    context = engine_context(ctx, lambda _: ("no server", "error"))
    with pytest.raises(UserError, match="1 of 1 requests were not answered"):
        benchmarks(context, items, model=NO_MODEL)
    assert not list(ctx.work.glob("*.json"))


def task_folder(folder: Path, **changes: Any) -> tuple[str, ...]:
    """A task of one's own beside its data."""
    folder.mkdir(exist_ok=True)
    config = {
        "task": "capitals",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "capitals.jsonl"}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{country}} has the capital",
        "doc_to_choice": ["Rhine", "Rome"],
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc"}],
    }
    (folder / "capitals.yaml").write_text(yaml.safe_dump({**config, **changes}), "utf-8")
    (folder / "capitals.jsonl").write_text('{"country": "Italy", "gold": 1}\n', "utf-8")
    return tuple(str(path) for path in sorted(folder.iterdir()))


def test_task_files_of_ones_own_are_run(ctx: Context, tmp_path: Path) -> None:
    files = task_folder(tmp_path / "own")
    context = engine_context(ctx, Rome=-1.0)
    benchmarks(context, RIVERS, model=NO_MODEL, task_files=files)
    columns = report(ctx)["columns"]["model"]
    assert set(columns) == {"capitals", "rivers"}
    assert columns["capitals"]["metrics"]["acc"]["value"] == 1.0
    benchmarks(engine_context(Context.scratch(tmp_path / "one")), RIVERS, model=NO_MODEL,
               task_files=files, tasks=("capitals",))  # fmt: skip
    with pytest.raises(OptionError, match="must be names of tasks, got capitols"):
        benchmarks(context, model=NO_MODEL, task_files=files, tasks=("capitols",))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset_path": "cais/mmlu"}, "dataset_path must be one of json"),
        ({"dataset_kwargs": {"data_files": {"test": "../x.jsonl"}}}, "among the files of"),
        ({"output_type": "loglikelihood"}, "output_type must be one of"),
        ({"metric_list": [{"metric": "exact_match"}]}, "metric must be another than"),
        ({"doc_to_target": "{{missing.field}}"}, "the task capitals cannot be run"),
    ],
)
def test_what_a_task_file_may_not_say_is_refused(
    changes: dict[str, Any], message: str, ctx: Context, tmp_path: Path
) -> None:
    files = task_folder(tmp_path / "own", **changes)
    with pytest.raises(UserError, match=message):
        benchmarks(engine_context(ctx), model=NO_MODEL, task_files=files)


def test_bundled_items_get_their_answers_and_others_a_reason(ctx: Context) -> None:
    table = pl.read_parquet(DATA / "benchmarks/mmlu_test.parquet").head(40)
    questions = [
        {"question": row["question"], "choices": "\n".join(row[letter] for letter in "ABCD")}
        for row in table.iter_rows(named=True)
    ]
    items = load(ctx, names=("truthfulqa", "gsm8k", "humaneval", "ifeval"))
    items = items.group_by("benchmark").head(40).select("id", "benchmark", "item", "texts")
    mmlu = exam("mmlu", questions)
    items = pl.concat([items, mmlu])
    tasks, left = item_tasks(items, None)
    kinds = {task.name: task.kind for task in tasks}
    assert kinds == {
        "gsm8k": "number",
        "humaneval": "code",
        "mmlu": "choice",
        "truthfulqa": "choice",
    }
    assert set(left) == {"ifeval"}
    docs = {task.name: task.docs for task in tasks}
    assert all(len(of) == 40 for of in docs.values())
    answers = dict(zip(mmlu["id"], table["answer"], strict=True))
    assert all("ABCD"[d["gold"]] == answers[d["item"]] for d in docs["mmlu"])
    assert len({d["gold"] for d in docs["truthfulqa"]}) > 1  # ties favour no right answer


def test_without_the_harness_it_is_said_how_to_get_it(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="lm-evaluation-harness is not installed") as error:
        benchmarks(ctx, RIVERS, model=NO_MODEL)
    assert "gristmill[evaluate]" in str(error.value.hint)


def test_items_without_any_layout_are_refused(ctx: Context) -> None:
    with pytest.raises(UserError, match="there is no task to run") as error:
        benchmarks(ctx, exam("mt_bench", [{"turns_1": "Write."}]), model=NO_MODEL)
    assert "evaluate.judge" in str(error.value)


@pytest.mark.proof
def test_likelihoods_are_ours_and_the_harness_own(ctx: Context, tinylm: LanguageModel) -> None:
    """The same pairs scored by our engine alone, and by the harness' own model."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    items = pl.concat([RIVERS, LETTERS])
    benchmarks(ctx, items, model=tinylm, num_shots=1)
    engine = ctx.open(tinylm)
    harness = HFLM(pretrained=TINYLM, device="cpu", dtype="float32", batch_size=1)
    for line in documents(ctx):
        if line["task"] != "rivers":
            continue
        prompt = "Question: Which one?\nAnswer:"
        pairs = [(prompt, f" {choice}") for choice in line["choices"]]
        tokens = [engine.tokenizer.encode(a + b) for a, b in pairs]
        start = len(engine.tokenizer.encode(prompt))
        own = [float(s.sum()) for s in engine.loglikelihood([Scored((*t,), start) for t in tokens])]
        assert line["loglikelihoods"] == pytest.approx(own, abs=1e-5)
        requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
        expected = [score for score, _ in harness.loglikelihood(requests, disable_tqdm=True)]
        assert line["loglikelihoods"] == pytest.approx(expected, abs=1e-3)


def humaneval(ctx: Context, *numbers: int) -> pl.DataFrame:
    items = load(ctx, names=("humaneval",)).select("id", "benchmark", "item", "texts")
    return items.filter(pl.col("item").is_in([f"HumanEval/{n}" for n in numbers])).sort("id")


def solutions() -> dict[str, str]:
    rows = json_lines(DATA / "benchmarks/HumanEval.jsonl.gz")
    return {row["prompt"]: row["canonical_solution"] for row in rows}


def passed(ctx: Context, items: pl.DataFrame, write: Callable[[str], str], **more: Any) -> float:
    context = engine_context(ctx, lambda text: (write(text), "stop"))
    benchmarks(context, items, model=NO_MODEL, **more)
    scores = report(context)["columns"]["model"]["humaneval"]["metrics"]["pass@1"]
    assert scores["documents"] == len(items)
    return scores["value"]  # type: ignore[no-any-return]


def test_code_counts_where_it_passes_its_tests(tmp_path: Path) -> None:
    right, one = solutions(), iter(range(9))
    items = humaneval(Context.scratch(tmp_path / "items"), 0, 2)

    def contexts() -> Context:
        return Context.scratch(tmp_path / str(next(one)))

    assert passed(contexts(), items, lambda text: right[text]) == 1.0
    assert passed(contexts(), items, lambda text: "    return 1\n") == 0.0
    assert passed(contexts(), items, lambda text: "    pass\n\nexit(0)\nprint('PASS')") == 0.0
    half = next(iter(right.values()))
    assert passed(contexts(), items, lambda text: half) == 0.5
    fenced = lambda text: f"Sure:\n```python\n{text}{right[text]}```\nIt works."  # noqa: E731
    assert passed(contexts(), items, fenced, chat=True) == 1.0


def test_examples_of_code_stand_as_code(ctx: Context) -> None:
    items = humaneval(ctx, 0, 2)
    seen: list[str] = []
    passed(ctx, items, lambda text: seen.append(text) or "    pass", num_shots=1)
    whole = {prompt + answer for prompt, answer in solutions().items()}
    assert all(any(text.startswith(program.rstrip()) for program in whole) for text in seen)


@pytest.mark.proof
def test_the_published_solutions_pass(ctx: Context) -> None:
    right = solutions()
    items = humaneval(ctx, *range(164))
    assert passed(ctx, items, lambda text: right[text]) == 1.0


def one_kind(**texts: str) -> tuple[str | None, dict[str, Any]]:
    tasks, left = item_tasks(exam("quiz", [texts]), None)
    return (tasks[0].kind, tasks[0].docs[0]) if tasks else (left["quiz"], {})


def test_layouts_that_do_not_say_what_is_right_are_left_out() -> None:
    twelve = {f"choices_{n}": f"town {n}" for n in range(12)}
    kind, doc = one_kind(question="Where?", **twelve, answer="town 11")
    assert (kind, doc["gold"], len(doc["choices"])) == ("choice", 11, 12)
    for texts in (
        {"A": "B", "B": "A", "answer": "A"},  # the letter or the text?
        {"A": "one", "B": "two", "answer": "2"},  # from 0 or from 1?
        {"A": "one", "C": "three", "answer": "C"},
        {"answer": " "},
        {"answer": "one", "incorrect_answers": " "},
    ):
        kind, _ = one_kind(question="Which?", **texts)
        assert kind in (UNKNOWN, "short"), texts
    assert one_kind(question="Which?", answer="one", incorrect_answers="one")[0] == "short"
    assert one_kind(question=" ", answer="one")[0] == UNKNOWN


def test_items_that_cannot_be_read_are_counted(ctx: Context) -> None:
    mixed = exam("quiz", [{"question": "Which?", "A": "1st", "B": "2nd", "answer": a}
                          for a in ("A", "B", "neither of them, nor any other of the many answers "
                                    "that one could think of here")])  # fmt: skip
    tasks, left = item_tasks(mixed, None)
    assert [len(task.docs) for task in tasks] == [2]
    assert left == {"quiz": f"1 of 3 items: {UNKNOWN}"}
    benchmarks(engine_context(ctx, A=-1.0), mixed, model=NO_MODEL)
    assert "1 of 3 items" in (ctx.files / "benchmarks.md").read_text()


def test_names_that_would_be_one_file_are_refused() -> None:
    both = pl.concat([exam(name, [{"question": "1?", "answer": "2"}]) for name in ("a-b", "a b")])
    with pytest.raises(UserError, match="got a_b twice"):
        item_tasks(both, None)
