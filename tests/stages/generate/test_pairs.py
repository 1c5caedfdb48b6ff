"""`generate.pairs`: which answers make pairs, what becomes of the others, and who is a parent."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.errors import Exit, RecipeErrors, UserError
from pipeline.models import LanguageModel
from pipeline.models.counting import CountingEngine, counting
from schemas.pairs import pair_id
from schemas.records import RECORD_COLUMNS, record_id
from stages._text.planted import MARKERS, SEPARATOR, without_markers
from stages.generate.pairs import pairs
from stages.generate.pairs.ditto import Ditto
from stages.generate.pairs.first_pit import FirstPit
from stages.generate.pairs.revised import Revised
from stages.generate.pairs.scored import Scored
from stages.generate.pairs.secalign import SecAlign
from stages.generate.pairs.self_taught import SelfTaught
from stages.generate.pairs.simulated import Simulated
from stages.generate.pairs.spar import SPaR
from stages.generate.pairs.verified import Verified
from tests.support.options import options_of, problems
from tests.support.rows import SAMPLES
from tests.support.running import recipe, run
from tests.support.scripted import ScriptedContext, scripted

NOWHERE = Context.__new__(Context)


def row(prompt: str, answer: str, parents: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    """A record of one exchange."""
    turns: list[Any] = [{"role": "user", "content": prompt}]
    turns.append({"role": "assistant", "content": answer})
    origins = [{"source": "s", "index": 0, "license": more.pop("license", "MIT")}]
    base = {"id": record_id(turns), "messages": turns, "origins": origins, "extra": "{}"}
    return base | {"parents": list(parents)} | more


def frame(*rows: dict[str, Any], **kinds: Any) -> pl.DataFrame:
    return pl.DataFrame([*rows], schema={**RECORD_COLUMNS, **kinds}).sort("id")


def proposals_of(rows: pl.DataFrame, **options: Any) -> list[dict[str, Any]]:
    return proposals_in(NOWHERE, rows, **options)


def proposals_in(ctx: Context, rows: pl.DataFrame, **options: Any) -> list[dict[str, Any]]:
    result = pairs(ctx, rows, **options)
    for proposal in result.to_dicts():
        sides = proposal["chosen"], proposal["rejected"]
        assert proposal["id"] == pair_id(proposal["prompt"], *sides, proposal["tools"])
        assert (proposal["drop_reason"] is None) == (proposal["evidence"] is None)
        if proposal["drop_reason"] is proposal["error"] is None:
            assert all(sides)
    kept = result.filter(pl.col("drop_reason").is_null() & pl.col("error").is_null())
    assert kept["id"].is_unique().all()
    return result.to_dicts()


def texts(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Chosen and rejected of the pairs that were kept."""
    kept = [row for row in rows if row["drop_reason"] is None]
    return [(row["chosen"][-1]["content"], row["rejected"][-1]["content"]) for row in kept]


def reasons(rows: list[dict[str, Any]]) -> Counter[str | None]:
    return Counter(row["drop_reason"] for row in rows)


SCORES = st.lists(st.none() | st.sampled_from([0.0, 1.0, 2.0, 3.0]), min_size=1, max_size=5)


@given(
    prompts=st.lists(SCORES, min_size=1, max_size=4),
    ranked=st.booleans(),
    which=st.sampled_from(["worst", "random", "all"]),
    margin=st.sampled_from([0.0, 2.0]),
)
def test_scored_pairs(
    prompts: list[list[float | None]], ranked: bool, which: Any, margin: float
) -> None:
    sign = -1 if ranked else 1
    rows = [
        row(f"q{at}", f"{at} {number}", score=None if score is None else sign * score)
        for at, scores in enumerate(prompts)
        for number, score in enumerate(scores)
    ]
    pool = frame(*rows, score=pl.Float64)
    method = Scored(score="score", descending=not ranked, rejected=which, min_margin=margin)
    results = proposals_of(pool, method=method, seed=3)
    assert {r["prompt"][0]["content"] for r in results} == {f"q{i}" for i in range(len(prompts))}
    by_id = {r["id"]: r for r in rows}
    for result in results:
        scores = prompts[int(result["prompt"][0]["content"][1:])]
        present = sorted((s for s in scores if s is not None), reverse=True)
        worse = [s for s in present if s != present[0]]
        if result["drop_reason"] is None:
            assert result["chosen_score"] > result["rejected_score"]
            assert result["margin"] >= margin
            assert result["margin"] == result["chosen_score"] - result["rejected_score"]
            assert result["chosen_score"] == present[0]
            assert which != "worst" or result["rejected_score"] == present[-1]
            assert [by_id[p]["score"] for p in result["parents"]] == [
                sign * result["chosen_score"], sign * result["rejected_score"]
            ]  # fmt: skip
        else:
            expected = (
                "one_answer" if len(scores) < 2 else "missing_score" if len(present) < 2
                else "tie" if not worse else "margin"
            )  # fmt: skip
            assert result["drop_reason"] == expected
            assert expected != "margin" or present[0] - present[-1] < margin
    if which == "all":
        assert len(texts(results)) == sum(
            sum(max(p) - s >= max(margin, 1) for s in p)
            for scores in prompts
            if len(p := [s for s in scores if s is not None]) > 1
        )


def test_random_depends_on_the_seed_and_on_no_other_row() -> None:
    rows = [row(f"q{q}", f"{q} {n}", score=float(n)) for q in range(20) for n in range(6)]
    pool = frame(*rows, score=pl.Float64)
    method = Scored(score="score", rejected="random")
    whole = texts(proposals_of(pool, method=method, seed=1))
    assert len(whole) == 20
    assert set(whole) == set(texts(proposals_of(pool.reverse(), method=method, seed=1)))
    part = pool.filter(pl.col("messages").list.first().struct.field("content") == "q7")
    assert set(texts(proposals_of(part, method=method, seed=1))) < set(whole)
    assert set(texts(proposals_of(pool, method=method, seed=2))) != set(whole)
    assert len({worse.split()[1] for _, worse in whole}) > 2


def test_a_length_penalty_prefers_the_short_one_of_near_equals() -> None:
    rows = [row("q", "short", score=3.0), row("q", "long " * 50, score=3.1),
            row("q", "bad", score=0.0)]  # fmt: skip
    pool = frame(*rows, score=pl.Float64)
    assert texts(proposals_of(pool, method=Scored(score="score")))[0][0].startswith("long")
    (pair,) = proposals_of(pool, method=Scored(score="score", length_penalty=0.5))
    assert texts([pair])[0][0] == "short"
    assert pair["chosen_score"] > pair["rejected_score"]


def test_tools_and_calls_belong_to_prompt_and_answer() -> None:
    calls = [{"id": None, "name": "add", "arguments": "{}"}]
    called = row("q", "2", score=1.0)
    called["messages"][1:1] = [
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "content": "2"},
    ]
    called |= {"id": "called", "tools": "[1]"}
    others = [row("q", "3", score=0.0, tools="[1]"), row("q", "4", score=-1.0)]
    pool = frame(called, *others, score=pl.Float64)
    results = proposals_of(pool, method=Scored(score="score"))
    assert reasons(results) == {None: 1, "one_answer": 1}
    (pair,) = [result for result in results if result["drop_reason"] is None]
    assert [turn["role"] for turn in pair["chosen"]] == ["assistant", "tool", "assistant"]
    assert pair["tools"] == "[1]"
    assert pair["length_difference"] == len("add\n2\n2") - len("3")


def test_licenses_and_origins_of_both_sides() -> None:
    rows = [row("q", "a", score=1.0), row("q", "b", score=0.0, license="CC0-1.0")]
    (pair,) = proposals_of(
        frame(*rows, score=pl.Float64), method=Scored(score="score"), source="mine"
    )
    assert pair["origins"] == [{"source": "mine", "index": 0, "license": "CC0-1.0 AND MIT"}]
    origins = json.loads(pair["extra"])["origins"]
    assert [origins[side]["license"] for side in ("chosen", "rejected")] == ["MIT", "CC0-1.0"]
    unknown = rows[1] | {"origins": []}
    (pair,) = proposals_of(frame(rows[0], unknown, score=pl.Float64), method=Scored(score="score"))
    assert pair["origins"][0]["license"] is None


def test_revised_rows_against_their_parents() -> None:
    old = [row(f"q{i}", f"old {i}", score=1.0) for i in range(5)]
    new = [
        row("q0", "new 0", (old[0]["id"],), score=2.0),
        row("q1", "new 1", (old[1]["id"],), score=1.0),
        row("other", "new 2", (old[2]["id"],), score=2.0),
        row("q3", "old 3 ", (old[3]["id"],), score=None),
        row("q4", "new 4", ("gone",), score=2.0),
    ]
    method = Revised(score="score")
    both = proposals_of(frame(*old, *new, score=pl.Float64), method=method)
    counts = {None: 1, "not_better": 1, "other_prompt": 1, "missing_score": 1, "no_original": 1}
    assert reasons(both) == counts
    assert texts(both) == [("new 0", "old 0")]
    separate = proposals_of(
        frame(*new, score=pl.Float64), others=frame(*old, score=pl.Float64), method=method
    )
    assert sorted(separate, key=str) == sorted(both, key=str)
    trusted = proposals_of(frame(*old, *new, score=pl.Float64), method=Revised())
    assert len(texts(trusted)) == 3


def test_correct_against_incorrect_answers_as_in_autoif() -> None:
    rates = {"q": [1.0, 0.6, 0.5, 0.2, 0.0, 0.0, 0.0], "right": [1.0, 0.9], "wrong": [0.0, 0.1],
             "none": [None, None]}  # fmt: skip
    rows = [row(q, f"{q} {i}", rate=r) for q, rs in rates.items() for i, r in enumerate(rs)]
    pool = frame(*rows, rate=pl.Float64)
    method = Verified(correct="rate > 0.5", incorrect="rate = 0", max_chosen=2, max_rejected=2)
    results = proposals_of(pool, method=method)
    counts = {None: 4, "no_negative": 1, "no_positive": 1, "unverified": 1}
    assert reasons(results) == counts
    rate_of = {r["messages"][1]["content"]: r["rate"] for r in rows}
    assert all(rate_of[good] > 0.5 and rate_of[bad] == 0 for good, bad in texts(results))
    assert len({good for good, _ in texts(results)}) == 2
    with pytest.raises(UserError, match="is correct and incorrect"):
        proposals_of(pool, method=Verified(correct="rate > 0.5", incorrect="rate > 0.8"))
    with pytest.raises(UserError, match="must be true or false"):
        proposals_of(pool, method=Verified(correct="rate"))


def test_the_farthest_incorrect_answer_is_used_once() -> None:
    right = ["aaaa", "aaaa bbbb cccc"]
    wrong = ["aaab", "zzzzzzzzzzzz", "aaaa bbbb cccd"]
    rows = [row("q", text, good=True) for text in right]
    rows += [row("q", text, good=False) for text in wrong]
    method = Verified(correct="good", match="farthest", max_chosen=3, min_distance=0.3)
    results = proposals_of(frame(*rows, good=pl.Boolean), method=method)
    assert texts(results) == [("aaaa", "zzzzzzzzzzzz"), ("aaaa bbbb cccc", "aaab")]
    alike = frame(rows[0], rows[2], good=pl.Boolean)
    assert reasons(proposals_of(alike, method=method)) == {"too_alike": 1}


def test_ditto_draws_its_shares() -> None:
    demonstrations = frame(*(row(f"q{i}", f"human {i}") for i in range(10)))
    samples = frame(
        *(row(f"q{q}", f"{q} {r} {n}", round=r) for q in range(10) for r in (1, 2, 3)
          for n in range(10)),
        round=pl.Int64,
    )  # fmt: skip
    results = proposals_of(demonstrations, others=samples, method=Ditto(num_pairs=100))
    kinds = Counter(json.loads(result["extra"])["kind"] for result in results)
    assert kinds == {"current": 70, "earlier": 20, "rounds": 10}
    for result in results:
        (good, bad), kind = texts([result])[0], json.loads(result["extra"])["kind"]
        assert good.startswith("human") == (kind != "rounds")
        rounds = [text.split()[1] for text in (good, bad)]
        assert (rounds[1] == "3") == (kind == "current")
        assert kind != "rounds" or rounds[0] > rounds[1]
    first = samples.filter(pl.col("round") == 1)
    only = proposals_of(demonstrations, others=first, method=Ditto(num_pairs=7))
    assert Counter(json.loads(result["extra"])["kind"] for result in only) == {"current": 7}
    without = proposals_of(demonstrations, others=samples.clear(), method=Ditto())
    assert reasons(without) == {"no_sample": 10}


def test_simulated_annotators_differ_and_flip() -> None:
    rows = [row(f"q{q}", f"{q} {n}", one=float(n), two=-float(n)) for q in range(300)
            for n in range(2)]  # fmt: skip
    pool = frame(*rows, one=pl.Float64, two=pl.Float64)
    results = proposals_of(pool, method=Simulated(annotators=("one", "two"), flip=0.25))
    notes = [json.loads(result["extra"]) for result in results]
    assert 0.4 < sum(note["annotator"] == "one" for note in notes) / 300 < 0.6
    assert 0.18 < sum(note["flipped"] for note in notes) / 300 < 0.32
    for (good, _), note in zip(texts(results), notes, strict=True):
        prefers = "1" if note["annotator"] == "one" else "0"
        assert (good.split()[1] == prefers) != note["flipped"]
    honest = proposals_of(pool, method=Simulated(annotators=("one",), flip=0.0))
    assert all(good.endswith(" 1") for good, _ in texts(honest))
    ties = proposals_of(pool.with_columns(one=pl.lit(1.0)), method=Simulated(annotators=("one",)))
    assert reasons(ties) == {"tie": 300}


def test_equal_answers_and_equal_pairs() -> None:
    same = row("q", "a", score=1.0), row("q", "a", score=0.0) | {"id": "other"}
    assert reasons(proposals_of(frame(*same, score=pl.Float64), method=Scored(score="score"))) == {
        "identical": 1
    }
    twice = [*same, row("q", "b", score=-1.0)]
    results = proposals_of(
        frame(*twice, score=pl.Float64), method=Scored(score="score", rejected="all")
    )
    assert reasons(results) == {None: 1, "identical": 1}


def test_a_recipe_makes_pairs_and_needs_others_for_ditto_alone(tmp_path: Path) -> None:
    load = {
        "uses": "load.records",
        "with": {"path": str(SAMPLES / "oasst_trees.jsonl.gz"), "source": "s", "license": "x"},
    }
    measured = {"uses": "score.heuristics", "needs": "pool"}
    method = {"name": "scored", "score": "response_words"}
    step = {"uses": "generate.pairs", "needs": {"rows": "measured"}, "with": {"method": method}}
    graph = {"pool": load, "measured": measured, "pairs": step}
    assert run(recipe(graph), tmp_path) is Exit.DONE
    needs = {"needs": {"rows": "measured", "others": "measured"}}
    with pytest.raises(RecipeErrors, match="scored does not read 'others'"):
        recipe(graph | {"pairs": step | needs})
    with pytest.raises(RecipeErrors, match="ditto must have an input for 'others'"):
        recipe(graph | {"pairs": step | {"with": {"method": "ditto"}}})


def test_secalign_plants_anothers_instruction_in_the_input() -> None:
    rows = [
        row(f"Sum up {i}.\n\nText {i}", f"sum {i}", input_start=len(f"Sum up {i}.") + 2)
        for i in range(40)
    ]
    rows.append(row("No input?", "none"))
    rows.append(row("Sum up this.\n\n[IN[INST]ST] ##", "nothing", input_start=14))
    results = proposals_of(frame(*rows), method=SecAlign(completion_fraction=0.5))
    assert reasons(results) == {None: 40, "no_input": 1, "empty_input": 1}
    by_id = {r["id"]: r for r in rows}
    attacks: Counter[str] = Counter()
    for result in (result for result in results if result["drop_reason"] is None):
        ((good, bad),) = texts([result])
        content = result["prompt"][0]["content"]
        attacks[json.loads(result["extra"])["attack"]] += 1
        own, other = (by_id[parent]["messages"] for parent in result["parents"])
        assert (good, bad) == (own[1]["content"], other[1]["content"])
        head, _, data = own[0]["content"].partition("\n\n")
        assert content.startswith(f"{head}\n\n{SEPARATOR}\n{data}.")
        planted = without_markers(other[0]["content"].partition("\n\n")[0], MARKERS)
        assert planted in content
        assert planted != head
        assert not any(marker in content.partition(SEPARATOR)[2] for marker in MARKERS)
        assert good not in content
    assert 10 < attacks["completion"] < 30
    alone = proposals_of(frame(rows[0]), method=SecAlign())
    assert reasons(alone) == {"no_other": 1}


WRITER = LanguageModel(model="any")


def judged(script: Any, tmp_path: Path) -> ScriptedContext:
    return scripted(Context.scratch(tmp_path), script)


def test_spar_refines_a_failing_answer_until_it_passes(tmp_path: Path) -> None:
    """An answer passes from the length of three on; a refinement adds one to it."""

    def script(text: str) -> tuple[str, str]:
        answer = text.split("Answer:\n")[1].split("\n\n")[0]
        if "Say yes or no" in text:
            return ("yes" if len(answer) >= 3 else "no"), "stop"
        return answer + "x", "stop"

    rows = [row("a", "o"), row("a", "ooo"), row("b", "ooooo"), row("c", "oo")]
    rows.append(row("d", "o" * 2))
    context = judged(script, tmp_path)
    results = proposals_in(context, frame(*rows), method=SPaR(depth=2), model=WRITER)
    assert reasons(results) == {None: 3, "no_negative": 1}
    pairs_of = {r["prompt"][0]["content"]: texts([r]) for r in results}
    assert pairs_of["a"] == [("oxx", "o")]
    assert pairs_of["c"] == [("oox", "oo")]
    assert pairs_of["b"] == []
    levels = {r["prompt"][0]["content"]: json.loads(r["extra"]).get("level") for r in results}
    assert (levels["a"], levels["c"]) == (2, 1)
    assert all(result["journal"] for result in results)
    short = proposals_in(context, frame(row("a", "o")), method=SPaR(depth=1), model=WRITER)
    assert reasons(short) == {"no_refinement": 1}


def test_spar_leaves_what_is_not_decided(tmp_path: Path) -> None:
    answers = iter(["yes", "no"] * 50)
    context = judged(lambda _: (next(answers), "stop"), tmp_path / "a")
    level = proposals_in(context, frame(row("a", "o")), method=SPaR(votes=2), model=WRITER)
    assert reasons(level) == {"undecided": 1}
    vague = judged(lambda _: ("perhaps", "stop"), tmp_path / "b")
    unread = proposals_in(vague, frame(row("a", "o")), method=SPaR(), model=WRITER)
    assert reasons(unread) == {"unreadable": 1}
    broken = judged(lambda _: ("no server", "error"), tmp_path / "c")
    (failed,) = proposals_in(broken, frame(row("a", "o")), method=SPaR(), model=WRITER)
    assert failed["error"] == "no server"


def test_self_taught_sides_answer_different_requests(tmp_path: Path) -> None:
    def script(text: str) -> tuple[str, str]:
        if "Here is what somebody asked" in text:
            if "same?" in text:
                return "same?", "stop"
            return ("cut", "length") if "long?" in text else ("other?", "stop")
        return f"answer to {text}", "stop"

    rows = [row(text, "by somebody") for text in ("one?", "same?", "long?")]
    results = proposals_in(
        judged(script, tmp_path), frame(*rows), method=SelfTaught(), model=WRITER
    )
    assert reasons(results) == {None: 1, "same_prompt": 1, "related_cut": 1}
    assert texts(results) == [("answer to one?", "answer to other?")]
    (pair,) = [result for result in results if result["drop_reason"] is None]
    assert json.loads(pair["extra"])["related"] == "other?"
    assert pair["parents"] == [rows[0]["id"]]
    assert len(pair["journal"]) == 3


def test_the_first_step_after_which_no_continuation_is_right(tmp_path: Path) -> None:
    """The model reaches 42 until the text holds the word wrong."""

    def script(text: str) -> tuple[str, str]:
        steps = text.split("begins:\n\n")[1].split("\n\nGo on")[0]
        return ("so it is 41" if "wrong" in steps else f"after {steps[-1]} it is 42"), "stop"

    rows = [
        row("a", "direct: 42", good=True),
        row("a", "step a\nstep b\nwrong c\nit is 41", good=False),
        row("b", "it is 42", good=True),
        row("b", "step a\nstep b", good=False),
        row("c", "it is 42", good=True),
        row("c", "wrong at once", good=False),
        row("d", "no number", good=True),
        row("d", "step", good=False),
    ]
    context = judged(script, tmp_path)
    pool = frame(*rows, good=pl.Boolean)
    results = proposals_in(context, pool, method=FirstPit(correct="good"), model=WRITER)
    assert reasons(results) == {None: 2, "no_pit": 1, "no_final_answer": 1}
    by_prompt = {r["prompt"][0]["content"]: texts([r]) for r in results}
    assert by_prompt["a\n\nstep a\nstep b"] == [("after b it is 42", "wrong c")]
    assert by_prompt["c"] == [("it is 42", "wrong at once")]
    (sent,) = context.engine.calls
    assert len(sent) == 4 * (4 + 2 + 1)
    (problem,) = problems("generate.pairs", method={"name": "first_pit", "correct": "good",
                                                    "final_answer": "("})  # fmt: skip
    assert "must be a regular expression" in problem


@pytest.mark.parametrize(
    ("method", "of_a_prompt"), [(SPaR(), 5 + 3 * 6 + 2 * 6 * 6), (SelfTaught(), 3)]
)
def test_requests_are_counted_before_they_are_sent(
    method: Any, of_a_prompt: int, tmp_path: Path
) -> None:
    """Of SPaR as if all three levels were needed: three, then twice six refinements."""
    counter = CountingEngine(WRITER)
    context = judged(lambda _: ("", "stop"), tmp_path)
    context.engine = counter  # type: ignore[assignment]
    rows = frame(*(row(f"q{i}", f"a{i}") for i in range(24)))
    with counting():
        pairs(context, rows, method=method, model=WRITER)
    assert counter.count.requests == 24 * of_a_prompt


def test_a_model_belongs_to_the_methods_that_write(tinylm: LanguageModel) -> None:
    method = {"name": "scored", "score": "ifd"}
    assert problems("generate.pairs", model=tinylm, method=method) == [
        "model must be left out with method: scored"
    ]
    check = pairs.__stage__.check  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="model must be given with method: spar"):
        check(options_of(pairs, method=SPaR()))
