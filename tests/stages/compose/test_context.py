"""compose.context: labels survive, budgets drop passages, nothing planted reaches an answer."""

from __future__ import annotations

import json
import random
import re
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.models import Embedder, LanguageModel
from pipeline.recipe.discovery import find
from schemas.records import RECORD_COLUMNS, record_id
from stages._constraints.ifeval.whole import EnglishLowercase
from stages._constraints.stored import read_turns, stored
from stages._llm.drafts import Draft
from stages._text.planted import MARKERS, SEPARATOR, Attack, holds
from stages.compose.context import (
    Citations,
    Method,
    Passages,
    RankRag,
    Sail,
    SourceAware,
    StruQ,
    VifRag,
    context,
)
from stages.compose.context.citations import sentences
from stages.compose.context.labels import Entailment, Judged, Overlap, _label_places
from stages.compose.context.retrieval import Passage
from stages.compose.context.shown import Shown, _drop_one
from tests.support.rows import (
    DATA,
    conversations,
    documents,
    exam,
    frame,
    json_lines,
    kept,
    record,
    self_instruct,
)
from tests.support.scripted import scripted
from tests.support.tool_rows import CONVERSATION, tool_record

TINYLM = LanguageModel(model=str(DATA / "models/tinylm"))
EMBEDDER = Embedder(model=str(DATA / "models/potion-base-4m"))
JUDGE = LanguageModel(model="any")
POOL = self_instruct(400)
TOPICS = ("whales", "rivers", "violins", "glaciers", "beetles", "bridges", "comets", "orchids")
FACTS = [
    f"{topic.capitalize()} of kind {n} are found near place{n}, says the register of {topic}."
    for topic in TOPICS
    for n in range(6)
]
BOOKS = documents(FACTS)
ASKED = conversations(
    [
        (f"Where are {topic} of kind {n} found?", f"They are found near place{n}.")
        for topic in TOPICS
        for n in range(6)
    ]
)
"""Each question has one passage with the whole answer, and others that are near to it."""


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    return Context.scratch(tmp_path)


def shown(text: str) -> list[str]:
    """The passages that a question has, in their order."""
    return re.split(r"\n*^[\[(]\d+[\])] ?\n?", text, flags=re.MULTILINE)[1:]


def with_extra(rows: pl.DataFrame, **fields: Any) -> pl.DataFrame:
    return rows.with_columns(extra=pl.lit(json.dumps(fields)))


def content(row: dict[str, Any], turn: int) -> str:
    return str(row["messages"][turn]["content"])


# SAIL


def labelled_numbers(statement: str) -> dict[int, str]:
    """What the statement before an answer says of each result."""
    numbers = {}
    for part in re.split(r"(?<=[.e]) (?=Search)", statement):
        label = "informative" if "informative" in part else "distracting"
        numbers |= dict.fromkeys(map(int, re.findall(r"\((\d+)\)", part)), label)
    return numbers


def test_sail_labels_survive_shuffling(ctx: Context) -> None:
    answers = dict(zip(ASKED["id"], ASKED["messages"].to_list(), strict=True))
    labels: Counter[str] = Counter()
    orders = set()
    new = kept(context(ctx, ASKED, BOOKS, method=Sail()))
    assert len(new) == len(ASKED)
    for row in new.iter_rows(named=True):
        question, answer = (turn["content"] for turn in answers[row["parents"][0]])
        assert content(row, 0).endswith(f"Request:\n\n{question}")
        statement, _, rest = content(row, 1).rpartition("\n\n")
        assert rest == answer
        passages = shown(content(row, 0).partition("\n\nRequest:")[0])
        assert len(passages) == len(row["passage_labels"]) == len(row["passage_ids"])
        said = labelled_numbers(statement)
        for number, (text, label) in enumerate(
            zip(passages, row["passage_labels"], strict=True), 1
        ):
            assert said[number] == label
            assert (label == "informative") == (answer.split()[-1].strip(".") in text)
            labels[label] += 1
        orders.add(
            tuple(sorted(row["passage_scores"], reverse=True)) == tuple(row["passage_scores"])
        )
        if not passages:
            assert statement == ""
            assert content(row, 0).startswith("Search results:\n\nNone\n\n")
    assert len(labels) == 2
    assert orders == {True, False}


def test_sail_gives_the_shares_of_the_paper(ctx: Context) -> None:
    rows = conversations([(f"Where are {t} {n}?", "Near.") for t in TOPICS for n in range(250)])
    new = kept(context(ctx, rows, BOOKS, method=Sail()))
    shares = Counter(new["passage_ids"].list.len().to_list())
    for number, share in enumerate((0.2, 0.1, 0.3, 0.4)):
        assert shares[number] / len(rows) == pytest.approx(share, abs=0.03)
    four = Sail(shares=(0.2, 0.1, 0.3, 0, 0.4))
    counts = Counter(kept(context(ctx, rows, BOOKS, method=four))["passage_ids"].list.len())
    assert 3 not in counts
    assert counts[4] / len(rows) == pytest.approx(0.4, abs=0.03)


def test_sail_takes_results_that_rows_came_with_and_one_hit_of_bm25(ctx: Context) -> None:
    results = [{"title": f"Page {n}", "body": f"Result {n} of a search."} for n in range(9)]
    rows = with_extra(ASKED.head(30), search_res=[*results, {"title": "empty"}, None, "plain text"])
    method = Sail(results="search_res", shares=(0, 0, 0, 0, 0, 0, 0, 1))
    for row in kept(context(ctx, rows, BOOKS, method=method)).iter_rows(named=True):
        from_search = [id_ for id_ in row["passage_ids"] if ":search_res:" in id_]
        assert sorted(from_search) == [f"{row['parents'][0]}:search_res:{n}" for n in range(6)]
        assert len(row["passage_ids"]) == 7
        assert row["passage_scores"].count(None) == 6
        assert "Page 3\nResult 3 of a search." in content(row, 0)
        assert len(row["parents"]) == 2
    alone = kept(context(ctx, rows, method=method))
    assert set(alone["passage_ids"].list.len()) == {6}


def test_the_judge_labels_and_what_it_does_not_say_is_no_label(tmp_path: Path) -> None:
    def script(text: str) -> tuple[str, str]:
        if "place3" in text or "Here is a passage" not in text:
            return "perhaps", "stop"  # also when it is asked to repair that
        return ("yes" if "kind 1" in text.partition("Here is a passage")[2] else "no"), "stop"

    answering = scripted(Context.scratch(tmp_path), script)
    method = Sail(labels=Judged(), shares=(0, 1))
    rows = context(answering, ASKED, BOOKS, method=method, judge=JUDGE)
    reasons = Counter(rows["drop_reason"].to_list())
    assert set(reasons) == {None, "unreadable"}
    for row in rows.iter_rows(named=True):
        assert row["journal"]
        if row["drop_reason"] is None:
            kind = "kind 1 " in content(row, 0).partition("\n\nRequest:")[0]
            assert row["passage_labels"] == ["informative" if kind else "distracting"]
    assert_always_yes_is_noticed(tmp_path)


def assert_always_yes_is_noticed(tmp_path: Path) -> None:
    """A judge that always says yes leaves no distracting passage: the labels' column shows it."""
    yes = scripted(Context.scratch(tmp_path / "yes"), lambda _: ("yes", "stop"))
    rows = kept(context(yes, ASKED, BOOKS, method=Sail(labels=Judged()), judge=JUDGE))
    assert set(rows["passage_labels"].explode().drop_nulls()) == {"informative"}


# Passages, budgets, what is never shown


def test_without_passages_a_row_is_unchanged(ctx: Context) -> None:
    rows = conversations([("¿Qué?", "Nada."), ("茶?", "是。")])
    new = context(ctx, rows, BOOKS, method=Passages())
    assert new.sort("id")["id"].to_list() == rows["id"].to_list()
    same = ["messages", "tools", "input_start"]
    assert_frame_equal(new.sort("id").select(same), rows.select(same))
    assert new["parents"].to_list() == [[id_] for id_ in new["id"]]


def test_the_input_stays_where_it_was(ctx: Context) -> None:
    for method in (Passages(), Sail()):
        for row in kept(context(ctx, POOL, BOOKS, method=method)).iter_rows(named=True):
            (old,) = POOL.filter(pl.col("id") == row["parents"][0]).to_dicts()
            assert (row["input_start"] is None) == (old["input_start"] is None)
            tail = content(old, 0)[old["input_start"] or 0 :]
            assert content(row, 0)[row["input_start"] or 0 :].endswith(tail)
            if row["input_start"]:
                assert content(row, 0)[row["input_start"] :] == tail


@pytest.mark.proof
def test_vectors_find_what_words_find_in_other_words(ctx: Context) -> None:
    books = documents(["The cat sleeps on a warm sofa.", "Stocks fell as banks raised rates."])
    rows = conversations([("Where do kittens nap?", "On the couch.")])
    assert context(ctx, rows, books, method=Passages(pool=1))["passage_ids"][0].len() == 0
    nearest = context(ctx, rows, books, method=Passages(pool=1), embedder=EMBEDDER)
    (text,) = shown(content(nearest.row(0, named=True), 0).rpartition("\n\n")[0])
    assert "cat sleeps" in text


def test_a_budget_drops_whole_passages_distracting_ones_first(ctx: Context) -> None:
    full = {
        row["parents"][0]: row
        for row in context(ctx, ASKED, BOOKS, method=Citations(distractors=4)).to_dicts()
        if row["drop_reason"] is None
    }
    sizes = Counter()
    for limit in (60, 120, 400):
        rows = context(
            ctx, ASKED, BOOKS, method=Citations(distractors=4), model=TINYLM, max_tokens=limit
        )
        assert set(rows["drop_reason"].drop_nulls()) <= {"over_budget", "unsupported"}
        for row in kept(rows).iter_rows(named=True):
            whole = full[row["parents"][0]]
            assert row["tokens"] <= limit
            question = content(whole, 0).rpartition("\n\n")[2]
            assert content(row, 0).endswith(question)
            texts = shown(content(row, 0).rpartition("\n\n")[0])
            assert {*texts} <= {*shown(content(whole, 0).rpartition("\n\n")[0])}
            assert "informative" in row["passage_labels"]
            sizes[limit, len(texts)] += 1
            # As many marks as before, each of the passage that it was of.
            marked = re.findall(r"\[(\d+)\]", content(row, 1))
            assert marked
            assert all(row["passage_labels"][int(n) - 1] == "informative" for n in marked)
    assert len({size for _, size in sizes}) > 2
    tiny = context(ctx, ASKED, BOOKS, method=Sail(), model=TINYLM, max_tokens=10)
    assert set(tiny["drop_reason"]) == {"over_budget"}


def test_no_passage_holds_what_is_measured_with(ctx: Context) -> None:
    secret = "In which of the nine northern harbours did captain Ivo Brandt lose his only anchor?"
    texts = [f"A quiz: {secret} Nobody knew.", "Captain Ivo Brandt was a sailor of harbours."]
    rows = conversations([("Tell me of captain Ivo Brandt and harbours.", "He was a sailor.")])
    held = conversations([(secret, "In the third.")])
    for edges in (
        {"benchmarks": exam("quiz", [{"question": secret}])},
        {"held_out": held},
    ):
        new = context(ctx, rows, documents(texts), method=Passages(), **edges)
        assert "nine northern" not in content(new.row(0, named=True), 0)
        assert new["passage_ids"][0].len() == 1
    free = context(ctx, rows, documents(texts), method=Passages())
    assert free["passage_ids"][0].len() == 2
    searched = with_extra(rows, found=texts)
    new = context(ctx, searched, method=Passages(results="found"), held_out=held)
    assert new["passage_ids"][0].to_list() == [f"{rows['id'][0]}:found:1"]
    new = context(ctx, searched, documents(texts), method=Passages(results="found"), held_out=held)
    assert "nine northern" not in content(new.row(0, named=True), 0)


def test_licenses_hold_together_and_parents_are_named(ctx: Context) -> None:
    books = documents(FACTS, license="CC-BY-4.0")
    for row in kept(context(ctx, ASKED, books, method=Passages())).iter_rows(named=True):
        assert row["origins"][0]["license"] == "CC-BY-4.0 AND CC0-1.0"
        owners = {id_.rpartition(":")[0] for id_ in row["passage_ids"]}
        assert {*row["parents"]} == {row["parents"][0], *owners}


# Citations, sources, ranking


def test_citations_name_the_passages_that_support_a_sentence(ctx: Context) -> None:
    positions: Counter[int] = Counter()
    new = kept(context(ctx, ASKED, BOOKS, method=Citations(distractors=3)))
    assert len(new) > 40
    for row in new.iter_rows(named=True):
        texts = shown(content(row, 0).rpartition("\n\n")[0])
        marks = [int(n) for n in re.findall(r"\[(\d+)\]", content(row, 1))]
        for number, text in enumerate(texts, 1):
            gold = row["passage_labels"][number - 1] == "informative"
            assert gold == (number in marks)
            assert not (not gold and holds(text, re.sub(r" \[.*\]", "", content(row, 1))))
        positions[marks[0]] += 1
    assert len(positions) >= 4
    assert max(positions.values()) < len(new) / 2


def test_the_position_of_the_gold_passage_is_uniform(ctx: Context) -> None:
    rows = conversations([(f"Where is the tower{n} of stone?", f"In town{n}.") for n in range(600)])
    books = documents(
        [f"The tower{n} of stone stands in town{n}." for n in range(600)]
        + [f"Stone {n} lies there." for n in range(9)]
    )
    method = Citations(distractors=3, pool=8, labels=Overlap(min_recall=1))
    new = kept(context(ctx, rows, books, method=method))
    places = Counter(labels.index("informative") for labels in new["passage_labels"].to_list())
    assert len(new) > 500
    for place in range(4):
        assert places[place] / len(new) == pytest.approx(0.25, abs=0.06)


def test_code_is_not_cited_and_lists_keep_their_numbers(ctx: Context) -> None:
    answer = (
        "Use it so:\n\n```\nbeetle of kind. 1\n```\n\n1. Beetles of kind 1 are found near place1."
    )
    rows = conversations([("How of beetles of kind 1?", answer)])
    (row,) = kept(context(ctx, rows, BOOKS, method=Citations(per_sentence=1))).to_dicts()
    assert re.sub(r" \[\d\]", "", content(row, 1)) == answer
    assert "beetle of kind. 1\n```" in content(row, 1)
    assert content(row, 1).count("[") == 1
    assert [answer[a:b].strip() for a, b in sentences(answer)][-1].startswith("Beetles")


def test_what_supports_a_sentence_distracts_from_none(ctx: Context) -> None:
    books = [f"Shelf {n}: whales sing loudly at night." for n in range(5)] + ["Whales are grey."]
    rows = conversations([("What of whales?", "They sing loudly at night.")])
    (row,) = context(ctx, rows, documents(books), method=Citations(distractors=4)).to_dicts()
    labels = dict(
        zip(shown(content(row, 0).rpartition("\n\n")[0]), row["passage_labels"], strict=True)
    )
    assert Counter(labels.values()) == {"informative": 2, "distracting": 1}
    assert labels["Whales are grey."] == "distracting"


def test_a_long_sentence_is_cited_in_no_time(ctx: Context) -> None:
    answer = "Beetles" + " " * 50_000 + "of kind 1 are" + "." * 50_000 + "found near place1 ."
    start = time.perf_counter()
    rows = conversations([("Where are beetles of kind 1 found?", answer)])
    (row,) = context(ctx, rows, BOOKS, method=Citations(per_sentence=1)).to_dicts()
    assert re.search(r"found near place1  \[\d\]\.$", content(row, 1))
    assert time.perf_counter() - start < 3


def test_sources_are_named_and_not_shown(ctx: Context) -> None:
    titled = BOOKS.with_columns(title=pl.concat_str(pl.lit("Book "), pl.col("id").str.slice(0, 6)))
    names = dict(titled.select("id", "title").iter_rows())
    texts = dict(titled.select("id", "text").iter_rows())
    new = kept(context(ctx, ASKED, titled, method=SourceAware()))
    assert len(new) > 40
    for row in new.iter_rows(named=True):
        (id_,) = row["parents"][1:]
        assert content(row, 1).endswith(f"\n\nSource: {names[id_]}")
        assert content(row, 1).split()[4].strip(".") in texts[id_]
        assert "register" not in content(row, 0)


@pytest.mark.parametrize("form", ["list", "single"])
def test_rankrag_asks_which_passages_answer(ctx: Context, form: Any) -> None:
    new = kept(context(ctx, ASKED, BOOKS, method=RankRag(form=form)))
    assert len(new) > 40
    answers = Counter(content(row, 1) for row in new.iter_rows(named=True))
    assert len(answers) > 1
    for row in new.iter_rows(named=True):
        gold = [n for n, label in enumerate(row["passage_labels"], 1) if label == "informative"]
        expected = ", ".join(f"[{n}]" for n in gold) if form == "list" else str(bool(gold))
        assert content(row, 1) == expected
        assert row["input_start"] is None


def test_rankrag_leaves_rows_with_tools_out(ctx: Context) -> None:
    rows = pl.concat([ASKED, frame([tool_record(CONVERSATION)])])
    new = context(ctx, rows, BOOKS, method=RankRag())
    assert new.filter(drop_reason="has_tools").height == 1
    assert kept(new).equals(kept(context(ctx, ASKED, BOOKS, method=RankRag())))


def test_a_ranking_never_loses_all_passages_of_a_kind() -> None:
    passages = [
        Shown(Passage(str(n), None, "text"), None, n, "informative" if n < 2 else "distracting")
        for n in range(4)
    ]
    draft = Draft(("a",), {"shown": passages, "needs": ("informative", "distracting")})
    left = []
    while _drop_one(draft):
        left.append("".join(one.passage.id for one in draft["shown"]))
    assert left == ["012", "02"]


# VIF-RAG


LOWER = {**stored([EnglishLowercase()]), "category": "style"}


def test_constraints_are_checked_on_the_final_text(ctx: Context) -> None:
    rows = conversations([("Where are whales of kind 1 found?", "they are found near place1.")])
    asked = with_extra(rows, **LOWER)
    (row,) = context(ctx, asked, BOOKS, method=Passages()).to_dicts()
    assert row["drop_reason"] is None
    assert json.loads(row["extra"])["category"] == "style"
    # The statement of SAIL begins with a capital: what the request asks for no longer holds.
    (broken,) = context(ctx, asked, BOOKS, method=Sail(shares=(0, 1))).to_dicts()
    assert broken["drop_reason"] == "not_satisfied"
    unknown = with_extra(rows, instruction_id_list=["no:such"], kwargs=[{}])
    assert context(ctx, unknown, BOOKS, method=Passages())["drop_reason"].to_list() == [
        "unknown_constraint"
    ]


def test_vif_rag_joins_constraints_with_questions_and_checks_answers(tmp_path: Path) -> None:
    pool = with_extra(conversations([("Sing!", "la la")]), **LOWER)
    pool = pl.concat([pool, conversations([("Plain.", "So.")])]).sort("id")
    ctx = Context.scratch(tmp_path / "plain")
    method = VifRag(queries_per_row=6)
    asked = context(ctx, pool, BOOKS, ASKED, method=method)
    assert Counter(asked["drop_reason"].to_list()) == {None: 6, "no_constraint": 1}
    for row in kept(asked).iter_rows(named=True):
        assert [turn["role"] for turn in row["messages"]] == ["user"]
        assert any(
            content(row, 0).endswith(EnglishLowercase().worded(n))
            for n in range(len(EnglishLowercase.wordings))
        )
        assert "Where are" in content(row, 0)
        assert len(row["passage_ids"]) == 3
        assert len(row["parents"]) >= 3

    def script(text: str) -> tuple[str, str]:
        return ("near some place" if "whales" in text or "rivers" in text else "Near It"), "stop"

    answering = scripted(Context.scratch(tmp_path / "answered"), script)
    method = VifRag(queries_per_row=40)
    rows = context(answering, pool, BOOKS, ASKED, method=method, writer=JUDGE)
    reasons = Counter(rows["drop_reason"].to_list())
    assert set(reasons) == {None, "not_satisfied", "no_constraint"}
    for row in kept(rows).iter_rows(named=True):
        assert content(row, 1) == "near some place"
        assert row["journal"]


# StruQ


def test_a_question_that_needs_tools_is_joined_with_nothing(ctx: Context) -> None:
    rows = with_extra(conversations([("Why do owls hoot?", "to sing.")]), **LOWER)
    asked = conversations([("Where are whales of kind 1?", "There.")])
    tools = asked.with_columns(tools=pl.lit("[{}]"))
    for queries, reason in ((asked, None), (tools, "no_query")):
        new = context(ctx, rows, BOOKS, queries, method=VifRag())
        assert new["drop_reason"].to_list() == [reason]


def summing(number: int, data: str) -> dict[str, Any]:
    request = f"Sum up {number}."
    return record(f"{request}\n\n{data}", f"sum {number}", input_start=len(request) + 2)


def test_struq_plants_anothers_instruction_and_keeps_the_answer(ctx: Context) -> None:
    new = context(ctx, POOL, method=StruQ())
    assert len(new) == len(POOL)
    assert new["drop_reason"].is_null().all()
    old = {row["id"]: row for row in POOL.to_dicts()}
    attacks: Counter[str | None] = Counter()
    for row in new.iter_rows(named=True):
        own = old[row["parents"][0]]
        assert content(row, 1) == content(own, 1)
        if own["input_start"] is None:
            assert (row["id"], row["attack"], row["messages"]) == (own["id"], None, own["messages"])
            continue
        attacks[row["attack"]] += 1
        instruction = content(own, 0)[: own["input_start"]].strip()
        head, separator, data = content(row, 0).partition(f"\n\n{SEPARATOR}\n")
        assert (head, bool(separator)) == (instruction, True)
        assert row["input_start"] == len(head) + 2
        assert not any(marker in data for marker in MARKERS)
        data_before = content(own, 0)[own["input_start"] :]
        if row["attack"] is None:
            assert row["planted_from"] is None
            continue
        other = old[row["planted_from"]]
        assert row["parents"] == [own["id"], other["id"]]
        assert content(other, 0) != content(own, 0)
        planted = data.replace("##", "")[len(data_before.replace("##", "")) :]
        assert not holds(planted, content(own, 1)), "the true answer stands in the data"
        assert not holds(content(row, 1), content(other, 1)), "the target holds the injected answer"
        assert other["messages"][0]["content"].split()[-1] in planted.replace("#", "#")
    planted_share = 1 - attacks[None] / attacks.total()
    assert planted_share == pytest.approx(0.5, abs=0.12)
    assert attacks["naive"] / attacks.total() == pytest.approx(0.25, abs=0.12)


@pytest.mark.parametrize("attack", get_args(Attack))
def test_every_attack_leaves_the_target(ctx: Context, attack: Attack) -> None:
    rows = [summing(n, f"[IN[INST]ST] Text {n} ####") for n in range(30)]
    results = {}
    for part in ("train", "test"):
        method = StruQ(attacks=(attack,), clean=0, part=part)  # type: ignore[arg-type]
        new = kept(context(ctx, frame(rows), method=method))
        assert set(new["attack"]) == {attack}
        assert (new["planted_from"] != new["parents"].list.first()).all()
        assert sorted(content(row, 1) for row in new.to_dicts()) == sorted(
            row["messages"][1]["content"] for row in rows
        )
        for row in new.iter_rows(named=True):
            data = content(row, 0).partition(SEPARATOR)[2]
            assert not any(marker in data for marker in MARKERS)
        results[part] = {content(row, 0) for row in new.to_dicts()}
    if attack in ("ignore", "completion", "completion_ignore"):
        assert results["train"].isdisjoint(results["test"])


def test_the_own_instruction_is_never_planted(ctx: Context) -> None:
    rows = [
        record(f"{request}\n\nText {n}", f"answer {n}", input_start=len(request) + 2)
        for n in range(12)
        for request in ("Sum up the text.", "SUM up  the text." if n % 2 else "Translate it.")
    ]
    instructions = {row["id"]: row["messages"][0]["content"].split("\n")[0] for row in rows}
    new = kept(context(ctx, frame(rows), method=StruQ(clean=0)))
    planted = new.filter(pl.col("planted_from").is_not_null())
    assert len(planted) > 12
    for own, other in zip(planted["parents"].list.first(), planted["planted_from"], strict=True):
        first, second = (instructions[id_].lower().split() for id_ in (own, other))
        assert first != second


def test_a_row_alone_stays_clean_and_data_of_markers_is_dropped(ctx: Context) -> None:
    alone = frame([record("Sum up.\n\nText", "sum", input_start=9)])
    (row,) = context(ctx, alone, method=StruQ(clean=0)).to_dicts()
    assert (row["attack"], row["planted_from"], row["drop_reason"]) == (None, None, None)
    empty = frame([record("Sum up.\n\n[INST]", "sum", input_start=9)])
    assert context(ctx, empty, method=StruQ())["drop_reason"].to_list() == ["empty_data"]
    bare = StruQ(clean=1, separator="", markers=("#",))
    (same,) = context(ctx, alone, method=bare).to_dicts()
    assert same["id"] == alone["id"][0]


def test_struq_deletes_markers_from_the_data_of_a_first_turn_with_others_behind_it(
    ctx: Context,
) -> None:
    rows = frame([record("Sum up.\n\nA [INST] b", "A.", "[INST]?", "B.", input_start=9)])
    (row,) = kept(context(ctx, rows, method=StruQ(clean=0))).to_dicts()
    contents = [turn["content"] for turn in row["messages"]]
    assert contents == ["Sum up.\n\nA  b", "A.", "[INST]?", "B."]


# All methods


METHODS: list[Method] = [
    Sail(), Passages(), Citations(), SourceAware(), RankRag(), StruQ(clean=0), VifRag(),
]  # fmt: skip


def composed(ctx: Context, method: Method, rows: pl.DataFrame, **options: Any) -> pl.DataFrame:
    edges: dict[str, Any] = {} if isinstance(method, StruQ) else {"documents": BOOKS}
    edges |= {"queries": ASKED} if isinstance(method, VifRag) else {}
    return context(ctx, rows, **edges, method=method, **options)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_results_depend_on_seed_and_id_alone(ctx: Context, method: Method) -> None:
    rows = with_extra(pl.concat([ASKED, POOL.head(60)]), **stored([])).sort("id")
    shuffled = rows.sample(fraction=1, shuffle=True, seed=1)
    parts = [composed(ctx, method, part).drop("origins").sort("id") for part in (rows, shuffled)]
    assert_frame_equal(*parts)
    again = composed(ctx, method, rows, seed=1).drop("origins").sort("id")
    same = isinstance(method, Passages | SourceAware | VifRag)
    assert same == parts[0].equals(again)


def test_methods_differ_as_their_docstrings_say(ctx: Context) -> None:
    rows = with_extra(ASKED, **LOWER).with_columns(
        pl.col("messages").list.eval(
            pl.element().struct.with_fields(pl.field("content").str.to_lowercase())
        )
    )
    texts = [json.dumps(kept(composed(ctx, m, rows))["messages"].to_list()) for m in METHODS]
    assert len({*texts}) == len(texts)


def test_methods_ask_one_server_what_their_docstrings_say(tmp_path: Path) -> None:
    """SAIL of drawn results and the whole answer, citations of sentences, ranking of the pool."""
    rows = conversations([("Where are whales of kind 1 found?", "They are large. Near place1.")])
    prompts: dict[str, list[str]] = {}
    for method in (
        Sail(labels=Judged(), shares=(0, 0, 1)),
        Citations(labels=Judged(), pool=3),
        RankRag(labels=Judged(), pool=4),
    ):
        seen = prompts.setdefault(method.name, [])

        def script(text: str, seen: list[str] = seen) -> tuple[str, str]:
            seen.append(text.partition("got this answer, or a part of it:\n\n")[2])
            return ("yes" if "place1," in text else "no"), "stop"

        answering = scripted(Context.scratch(tmp_path / method.name), script)
        new = context(answering, rows, BOOKS, method=method, judge=JUDGE)
        assert len(new["journal"][0]) == len(seen)
    whole = "They are large. Near place1.\n\nHere is a passage"
    assert {name: len(asked) for name, asked in prompts.items()} == {
        "sail": 2, "citations": 6, "rankrag": 4,
    }  # fmt: skip
    assert all(text.startswith(whole) for name in ("sail", "rankrag") for text in prompts[name])
    starts = Counter(text.partition("\n")[0].strip() for text in prompts["citations"])
    assert starts == {"They are large.": 3, "Near place1.": 3}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_rows_of_every_kind_are_kept_whole_or_dropped_with_a_reason(
    ctx: Context, method: Method
) -> None:
    tool = {"id": "1", "name": "look", "arguments": "{}"}
    odd: list[list[dict[str, Any]]] = [
        [{"role": "user", "content": ""}, {"role": "assistant", "content": "They are found."}],
        [{"role": "user", "content": "Where are whales found?"}],
        [{"role": "user", "content": "Whales?"}, {"role": "assistant", "content": " "}],
        [{"role": "user", "content": "鲸鱼在哪里?"}, {"role": "assistant", "content": "在海里。"}],
        [
            {"role": "user", "content": "Where are whales of kind 1? " + "whales " * 7_000},
            {"role": "assistant", "content": "They are found near place1. " * 2_000},
        ],
        [
            {"role": "user", "content": "Where are whales of kind 1 found?"},
            {"role": "assistant", "content": None, "tool_calls": [tool]},
            {"role": "tool", "content": "place1", "tool_call_id": "1"},
            {"role": "assistant", "content": "They are found near place1.", "reasoning": "Hm."},
        ],
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello."},
            {"role": "assistant", "content": "Hi."},
            {"role": "user", "content": "Where are whales of kind 1 found?"},
            {"role": "assistant", "content": "They are found near place1."},
        ],
        [],
    ]
    records: list[dict[str, Any]] = [
        {"id": record_id(m), "messages": m, "tools": None, "extra": None} for m in odd
    ]  # type: ignore[arg-type]
    rows = pl.DataFrame(records, schema=RECORD_COLUMNS).sort("id")
    new = composed(ctx, method, rows)
    assert len(new) == len(rows)
    assert (new["drop_reason"].is_null() == new["evidence"].is_null()).all()
    for row in kept(new).iter_rows(named=True):
        old = next(r for r in records if r["id"] == row["parents"][0])
        if isinstance(method, RankRag):
            continue
        assert [t["role"] for t in row["messages"]] == [t["role"] for t in old["messages"]]
        for before, after in zip(old["messages"], row["messages"], strict=True):
            assert (before["content"] or "").strip() in re.sub(
                r" (?:\[\d\])+", "", after["content"] or ""
            )
            for field in ("reasoning", "tool_call_id"):
                assert before.get(field) == after.get(field)
            assert bool(before.get("tool_calls")) == bool(after["tool_calls"])


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"method": Sail(), "judge": JUDGE}, "judge"),
        ({"method": Sail(labels=Judged())}, "judge"),
        ({"method": Citations(labels=Entailment())}, "entailment"),
        ({"method": Passages(), "writer": JUDGE}, "writer"),
        ({"method": Passages(), "max_tokens": 100}, "model"),
        ({"method": Passages(), "model": TINYLM}, "max_tokens"),
        ({"method": StruQ(), "model": TINYLM, "max_tokens": 100}, "model"),
        (
            {"method": VifRag(), "writer": JUDGE, "model": TINYLM, "max_tokens": 100},
            "max_tokens",
        ),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], wrong: str) -> None:
    stage = find("compose.context")
    defaults = {option.name: option.default for option in stage.options}
    assert stage.check is not None
    with pytest.raises(OptionError) as error:
        stage.check(SimpleNamespace(**(defaults | options)))
    assert error.value.option == wrong


def test_edges_that_a_method_does_not_read(ctx: Context) -> None:
    with pytest.raises(OptionError, match="documents"):
        context(ctx, ASKED, method=Passages())
    with pytest.raises(OptionError, match="documents"):
        context(ctx, ASKED, BOOKS, method=StruQ())
    with pytest.raises(OptionError, match="queries"):
        context(ctx, ASKED, BOOKS, method=VifRag())
    with pytest.raises(OptionError, match="held_out"):
        context(ctx, ASKED, held_out=ASKED, method=StruQ())


def test_planting_takes_20_000_rows_a_second(ctx: Context) -> None:
    """In CPU time of one core it may take twice as long as on two."""
    rng = random.Random(0)
    rows = [summing(n, " ".join(rng.choices(TOPICS, k=12))) for n in range(3_000)]
    pool = pl.DataFrame(rows, schema=RECORD_COLUMNS)

    def seconds() -> float:
        start = time.process_time()
        context(ctx, pool, method=StruQ())
        return time.process_time() - start

    assert len(rows) / min(seconds() for _ in range(3)) > 10_000


@pytest.fixture(scope="module")
def entailing(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    """A cross-encoder with random weights and the labels of entailment."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import BertProcessing
    from torch import manual_seed
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        PreTrainedTokenizerFast,
    )

    folder = tmp_path_factory.mktemp("nli")
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"place{n}" for n in range(6)), *TOPICS]
    words = {name: number for number, name in enumerate(names)}
    raw = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    raw.pre_tokenizer = Whitespace()  # type: ignore[assignment]
    raw.post_processor = BertProcessing(("[SEP]", 3), ("[CLS]", 2))  # type: ignore[assignment]
    PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", model_max_length=64,
    ).save_pretrained(folder)  # fmt: skip
    manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=64,
        id2label={0: "CONTRADICTION", 1: "NEUTRAL", 2: "ENTAILMENT"},
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    return Embedder(model=str(folder))


@pytest.mark.proof
def test_a_model_of_entailment_labels_by_its_logits(ctx: Context, entailing: Embedder) -> None:
    """As SAIL's code has it: informative where entailment is above contradiction."""
    from sentence_transformers import CrossEncoder

    method = Sail(labels=Entailment(), shares=(0, 0, 0, 1))
    new = kept(context(ctx, ASKED, BOOKS, method=method, entailment=entailing))
    encoder = CrossEncoder(entailing.model)
    labels = set()
    for row in new.head(12).iter_rows(named=True):
        answer = content(row, 1).rpartition("\n\n")[2]
        texts = shown(content(row, 0).partition("\n\nRequest:")[0])
        for text, label in zip(texts, row["passage_labels"], strict=True):
            logits = encoder.predict([(text, answer)])[0]
            assert (label == "informative") == (logits[2] > logits[0])
            labels.add(label)
    assert labels
    alone = kept(context(ctx, ASKED.head(3), BOOKS, method=method, entailment=entailing))
    assert alone["label_scores"].to_list() == new.filter(
        pl.col("parents").list.first().is_in(ASKED.head(3)["id"].to_list())
    )["label_scores"].to_list()  # fmt: skip
    with pytest.raises(OptionError, match="labels of entailment"):
        _label_places({0: "LABEL_0", 1: "LABEL_1"})


def test_files_of_followrag_are_read(ctx: Context, shared: Path) -> None:
    """Their passages and questions are laid out anew, their constraints go by IFEval's names."""
    items = json_lines(shared / "references/followrag_ifnq_sample.jsonl.gz")
    rows = [
        {**record(item["question_with_instrs"], roles=("user",)), "extra": json.dumps(item)}
        for item in items
    ]
    method = Passages(results="passages")
    new = kept(context(ctx, pl.DataFrame(rows, schema=RECORD_COLUMNS), method=method))
    assert len(new) == len(items) == 100
    by_question = {item["question_with_instrs"]: item for item in items}
    for row in new.iter_rows(named=True):
        question = next(q for q in by_question if content(row, 0).endswith(f"\n\n{q}"))
        passages = by_question[question]["passages"]
        places = [content(row, 0).find(f"] {p['title']}\n{p['content'].strip()}") for p in passages]
        assert places == sorted(places)
        assert min(places) > 0
        (constraints,), _ = read_turns(row["extra"])
        assert len(constraints) == len(by_question[question]["instruction_id_list"])
    answered = [
        {**row, "messages": [*row["messages"], {"role": "assistant", "content": "No, nothing"}]}
        for row in rows
    ]
    checked = context(ctx, pl.DataFrame(answered, schema=RECORD_COLUMNS), method=method)
    assert set(checked["drop_reason"].drop_nulls()) == {"not_satisfied"}
