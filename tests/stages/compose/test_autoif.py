"""AutoIF and VIF-RAG: a model is believed only where functions, cases and judges agree."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from pipeline.models.base import LanguageModel
from pipeline.models.structured_output import json_parser
from pipeline.recipe.discovery import find
from stages._llm.drafts import Draft
from stages.compose.constraints import Rules, constraints
from stages.compose.constraints.autoif import AutoIf, _places, score_of
from stages.compose.constraints.written import (
    SCHEMA,
    Written,
    by_sentence,
    cases_of,
    seeds,
    source_of,
)
from stages.score.execution import execution
from stages.score.execution.checkers import Checkers
from tests.support.rows import DATA, conversations, frame, kept, record, self_instruct
from tests.support.scripted import Answer, Scripted, scripted

MODEL = LanguageModel(model="none")
QUERIES = conversations(
    [(f"Why does it rain so often in the town number {n}?", "It rains, Q.") for n in range(6)]
)
SHORT = "Use fewer than nine words."
NO_Q = "Do not use the letter Q."
LIES = "Use the letter X."
"""A constraint whose functions check something else."""

_FUNCTIONS = {
    SHORT: ("len(response.split()) < 9",
            "less(response)\ndef less(text):\n    return len(text.split()) < 9",
            "not response.split()[8:]", "len(response.split()) > 100"),
    NO_Q: ("'q' not in response.lower()", "not {'q', 'Q'} & {*response}",
           "response.lower().count('q') == 0", "response[99]"),
    LIES: ("'x' not in response.lower()",  "response.lower().count('x') == 0",
           "not {'x', 'X'} & {*response}", "None"),
}  # fmt: skip
_CASES = {
    SHORT: [("It rains.", "true"), ("It rains " * 9, False), ("Now", True)],
    NO_Q: [("Quick!", "False"), ("Slow.", True), ("Quiet queues", False)],
    LIES: [("Axe", False), ("Rain", True), ("Box", "false")],
}


def checker(sentence: str, number: int) -> str:
    source = f"def evaluate(response):\n    return {_FUNCTIONS[sentence][number % 4]}\n"
    cases = [{"input": f"{text}{' ' * number}", "output": out} for text, out in _CASES[sentence]]
    return "```json\n" + json.dumps({"func": source, "cases": cases}) + "\n```"


class Teacher:
    """Writes the constraints above; `changes` answer prompts in which their names stand."""

    def __init__(self, **changes: str) -> None:
        self.changes, self.calls = changes, Counter[str]()

    def __call__(self, text: str) -> Answer:
        if text.startswith("Why does it rain"):
            return self.changes.get("query", "It rains where clouds are."), "stop"
        for part, answer in self.changes.items():
            if part in text:
                return answer, "stop"
        if "Write one sentence on each line" in text:
            return f"Sure!\n- {NO_Q}\n- {SHORT.upper()}\n- {LIES}", "stop"
        if rule := re.search(r"keep to this rule: (.*)", text):
            self.calls[rule[1]] += 1
            return checker(rule[1] if rule[1] in _CASES else SHORT, self.calls[rule[1]]), "stop"
        if "Which rule is it?" in text:
            return ("Do not use the letter X." if "'x'" in text else "As it was."), "stop"
        if "Answer with one of these words and nothing else: entailment" in text:
            return ("contradiction" if "letter X" in text else "entailment"), "stop"
        if "get into each other's way" in text:
            return "They meet.\nScore: 7", "stop"
        return "It is fine.\nScore: 9", "stop"


def composed(
    tmp_path: Path, script: Any = None, rows: pl.DataFrame = QUERIES, **options: Any
) -> tuple[pl.DataFrame, Scripted]:
    ctx = scripted(Context.scratch(tmp_path), script or Teacher())
    method = options.pop(
        "method", AutoIf(seeds=(SHORT,), queries=2, written=Written(num_functions=4))
    )
    return constraints(ctx, rows, model=MODEL, method=method, **options), ctx.engine


def reasons(rows: pl.DataFrame) -> Counter[str | None]:
    return Counter(rows["drop_reason"])


def test_what_stands_the_tests_gets_queries_and_answers_that_follow_it(tmp_path: Path) -> None:
    rows, engine = composed(tmp_path)
    # The sentence in capitals is the seed again; the one that is checked contrarily is dropped.
    assert reasons(rows) == {None: 4, "contradiction": 1}
    (contrary,) = rows.filter(drop_reason="contradiction").to_dicts()
    assert contrary["messages"][0]["content"] == LIES
    assert json.loads(contrary["evidence"])["rule"] == "Do not use the letter X."
    new = kept(rows)
    for row in new.to_dicts():
        extra = json.loads(row["extra"])
        request, answer = (turn["content"] for turn in row["messages"])
        (sentence,) = extra["constraints"]
        assert request.endswith(f"?\n\n{sentence}")
        assert answer == "It rains where clouds are."
        assert len(extra["checkers"]) == 3  # the fourth disagrees with the others, or fails
        assert row["constraint_rate"] == 1
        assert row["constraint_quality"] == 9
        assert row["trivially_true"] == (sentence == SHORT)  # the row's own answer has a Q
        assert len(row["parents"]) == 1
        assert len(row["journal"]) >= 10
    assert {s for e in new["extra"] for s in json.loads(e)["constraints"]} == {SHORT, NO_Q}
    # Another stage runs the functions that the rows carry, and says the same.
    again = execution(
        Context.scratch(tmp_path / "e"), new, method=Checkers(checkers="extra.checkers")
    )
    assert {*again["execution_outcome"]} == {"pass"}
    assert len(engine.calls) == 6


@pytest.mark.parametrize(
    ("changes", "options", "expected"),
    [
        ({"A request, the rule": "Bad.\nScore: 8"}, {}, "low_quality"),
        ({"A request, the rule": "Score: 9 of sorts"}, {}, "quality_unparsed"),
        ({"query": "It rains in Q " * 20}, {}, "not_satisfied"),
        ({"of these words": "perhaps"}, {}, "unreadable"),
        ({"keep to this rule": "def evaluate(r): ..."}, {}, "too_few_functions"),
        ({}, {"min_cases": 99}, "too_few_functions"),
        ({}, {"min_agreeing": 1.0}, "not_validated"),
    ],
)
def test_each_check_drops_what_fails_it(
    tmp_path: Path, changes: dict[str, str], options: dict[str, Any], expected: str
) -> None:
    method = AutoIf(
        seeds=(SHORT, NO_Q), queries=1, written=Written(num_requests=0, num_functions=4, **options)
    )
    rows, _ = composed(tmp_path, Teacher(**changes), method=method)
    assert reasons(rows) == {expected: 2}
    assert rows["evidence"].null_count() == 0


def test_a_constraint_that_is_there_twice_is_written_and_asked_for_once(tmp_path: Path) -> None:
    twice = (SHORT, f" {SHORT.upper()}", NO_Q)
    written = Written(num_requests=0, num_functions=4)
    once, engine = composed(
        tmp_path / "a", method=AutoIf(seeds=(SHORT, NO_Q), queries=1, written=written)
    )
    rows, other = composed(tmp_path / "b", method=AutoIf(seeds=twice, queries=1, written=written))
    assert_frame_equal(rows.drop("journal"), once.drop("journal"))
    assert len(other.calls) == len(engine.calls)
    assert [*by_sentence(Draft((), {"constraint": text}) for text in twice)] == [
        SHORT.casefold(),
        NO_Q.casefold(),
    ]


def test_a_request_without_an_answer_fails_what_needs_it(tmp_path: Path) -> None:
    def broken(text: str) -> Answer:
        return ("down", "error") if f"rule: {NO_Q}" in text else Teacher()(text)

    method = AutoIf(
        seeds=(SHORT, NO_Q), queries=1, written=Written(num_requests=0, num_functions=4)
    )
    rows, _ = composed(tmp_path, broken, method=method)
    assert rows.filter(pl.col("error") == "down")["messages"].list.len().to_list() == [1]
    assert len(kept(rows)) in (0, 1)


@pytest.mark.proof
def test_pairs_go_together_by_their_score_and_answers_follow_both(tmp_path: Path) -> None:
    written = Written(num_requests=0, num_functions=4)
    method = AutoIf(seeds=(SHORT, NO_Q), queries=1, num_pairs=5, written=written)
    rows, _ = composed(tmp_path, method=method)
    (pair,) = [r for r in kept(rows).to_dicts() if len(r["constraint_kinds"]) == 2]
    assert pair["messages"][0]["content"].endswith(f"?\n\n{SHORT}\n{NO_Q}")
    assert len(json.loads(pair["extra"])["checkers"]) == 6
    one = {"query": "It rains in Q."}  # follows one of the two
    rows, _ = composed(tmp_path / "one", Teacher(**one), method=method)
    assert {len(r["constraint_kinds"]) for r in kept(rows).to_dicts()} == {1}
    unlike = {"each other's way": "Not at all.\nScore: 4"}
    rows, _ = composed(tmp_path / "apart", Teacher(**unlike), method=method)
    assert json.loads(rows.filter(drop_reason="conflict")["evidence"][0])["coexistence"] == 4


def test_pairs_are_numbered_as_they_are_combined() -> None:
    for count in range(2, 9):
        every = [*combinations(range(count), 2)]
        assert [_places(number, count) for number in range(len(every))] == every


def test_files_bring_constraints_with_functions_also_the_authors(
    tmp_path: Path, shared: Path
) -> None:
    ours = str(DATA / "seeds/checkable_constraints.jsonl")
    method = AutoIf(
        seeds=(), queries=2, min_quality=None, written=Written(num_requests=0, num_functions=4)
    )
    rows, engine = composed(tmp_path, method=method, constraint_files=(ours,))
    assert reasons(rows) == {None: 6}
    assert len(engine.calls) == 1  # nothing but answers
    authors = tmp_path / "back_trans.jsonl"
    packed = (shared / "references/autoif_functions_validated.jsonl.gz").read_bytes()
    authors.write_bytes(gzip.decompress(packed))
    rows, _ = composed(tmp_path / "a", method=method, constraint_files=(str(authors),))
    assert len(rows) == 10
    assert {*reasons(rows)} <= {None, "not_satisfied"}
    (tmp_path / "bad.jsonl").write_text('\n{"instruction": "Rhyme."}\n')
    with pytest.raises(UserError, match="a constraint with its functions") as error:
        composed(tmp_path / "b", method=method, constraint_files=(str(tmp_path / "bad.jsonl"),))
    assert "bad.jsonl:2" in str(error.value.where)


def test_the_authors_completions_are_read(shared: Path) -> None:
    """All but three, which are no JSON."""
    packed = (shared / "references/autoif_functions_raw.jsonl.gz").read_bytes()
    rows = [json.loads(line) for line in gzip.decompress(packed).splitlines()]
    read, unread = [], 0
    for text in (text for row in rows for text in row["gpt-answer"]):
        try:
            read.append(json_parser(SCHEMA)(text))
        except ValueError:
            unread += 1
    assert unread == 3
    assert len(cases_of(read)) > 100
    assert all(compile(source_of(one["func"]), "f", "exec") for one in read)


def test_the_authors_scores_decide_as_theirs(shared: Path) -> None:
    packed = (shared / "references/autoif_scored_responses.jsonl.gz").read_bytes()
    rows = [json.loads(line) for line in gzip.decompress(packed).splitlines()]
    scores = [score_of(row["gen"][0]) for row in rows]
    assert [score is not None and score > 8 for score in scores] == [row["kept"] for row in rows]
    assert Counter(row["kept"] for row in rows) == {True: 16, False: 4}


@pytest.mark.proof
def test_neither_order_nor_length_of_the_pool_lets_a_row_out_of_its_bounds(tmp_path: Path) -> None:
    pool = self_instruct(40)
    method = AutoIf(seeds=(SHORT,), queries=4, written=Written(num_requests=0, num_functions=4))
    rows, _ = composed(tmp_path, rows=pool, method=method)
    turned = pool.sample(fraction=1, shuffle=True, seed=3)
    again, _ = composed(tmp_path / "2", rows=turned, method=method)
    assert_frame_equal(rows.sort("id"), again.sort("id"))
    lengths = dict(zip(pool["id"], pool["messages"].to_list(), strict=True))
    for row in kept(rows).to_dicts():
        start = next(r["input_start"] for r in pool.to_dicts() if r["id"] == row["parents"][0])
        assert 20 <= len(lengths[row["parents"][0]][0]["content"][:start].strip()) <= 300


def test_rows_with_tools_and_long_requests_get_no_constraint(tmp_path: Path) -> None:
    tools = {**record("Add two and three, will you?", "5"), "tools": '[{"name": "add"}]'}
    rows = frame([tools, record("Why?", "So."), record("Why? " * 100, "So."), record(" ", "A")])
    new, _ = composed(tmp_path, rows=rows)
    assert reasons(new) == {"no_query": 2, "contradiction": 1, "no_request": 1}


def test_a_share_of_trivially_true_rows_is_kept(tmp_path: Path) -> None:
    method = AutoIf(seeds=(), queries=2, min_quality=None, written=Written(num_requests=0))
    files = (str(DATA / "seeds/checkable_constraints.jsonl"),)
    rows, _ = composed(
        tmp_path, method=method, constraint_files=files, max_trivially_true=0.4
    )  # two of six say something: the row's own answer has a Q, which one constraint forbids
    assert Counter(kept(rows)["trivially_true"]) == {True: 1, False: 2}
    assert Counter(rows.filter(drop_reason="trivially_true")["trivially_true"]) == {True: 3}
    pool = self_instruct(60)
    ctx = Context.scratch(tmp_path / "rules")
    new = kept(constraints(ctx, pool, method=Rules(edited=0.5), max_trivially_true=0.25))
    trivial = new["trivially_true"].sum()
    assert 0 < trivial <= len(new) / 4
    for row in new.to_dicts():
        own = next(r for r in pool.to_dicts() if r["id"] == row["parents"][0])["messages"]
        if row["trivially_true"]:
            assert row["messages"][-1]["content"] == own[-1]["content"]


def test_who_writes_is_said_where_something_is_written() -> None:
    check = find("compose.constraints").check
    defaults = {o.name: o.default for o in find("compose.constraints").options}
    assert check is not None
    from types import SimpleNamespace

    with pytest.raises(OptionError, match="model must be given with method: autoif"):
        check(SimpleNamespace(**{**defaults, "method": AutoIf()}))
    for name, value in (("model", MODEL), ("judge", MODEL), ("constraint_files", ("a",))):
        with pytest.raises(OptionError, match=f"{name} must be left out with method: rules"):
            check(SimpleNamespace(**{**defaults, name: value}))
    assert len(seeds()) == 36
