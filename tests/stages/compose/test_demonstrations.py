"""compose.demonstrations: nothing gives an answer away, nothing is cut, nothing is lost."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.models.base import Embedder, LanguageModel
from pipeline.recipe.discovery import find
from schemas.records import RECORD_COLUMNS, record_id
from stages._llm.rendered import rendered_text
from stages._llm.token_counts import token_lengths, tokenizer_of
from stages.compose.demonstrations import demonstrations
from stages.compose.demonstrations.choice import languages_of
from stages.compose.demonstrations.pool import Request
from stages.compose.demonstrations.rankings import Bm25, Random, SPhinX, Vectors
from tests.support.options import options_of, problems
from tests.support.rows import DATA, alpaca, conversations, frame, kept, record, self_instruct

TINYLM = LanguageModel(model=str(DATA / "models/tinylm"))
POOL = self_instruct(300)
RNG = np.random.default_rng(0)
WITH_VECTORS = POOL.with_columns(
    vector=pl.Series(RNG.normal(size=(len(POOL), 8)).astype(np.float32)).arr.to_list(),
    language=pl.Series(["de", "fr", "en", None] * (len(POOL) // 4)),
)
METHODS = [Random(), Bm25(), Vectors(), SPhinX(language="language")]


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    return Context.scratch(tmp_path)


def shown(ctx: Context, rows: pl.DataFrame = WITH_VECTORS, **options: Any) -> pl.DataFrame:
    return demonstrations(ctx, rows, **{"num_shots": (1, 3), **options})


def contents(messages: list[dict[str, Any]]) -> list[str]:
    return [turn["content"] for turn in messages]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_row_stands_behind_others_and_is_the_only_one_trained_on(
    ctx: Context, method: Any
) -> None:
    rows = shown(ctx, method=method)
    texts = {row["id"]: contents(row["messages"]) for row in POOL.iter_rows(named=True)}
    sizes = Counter(rows["demonstrations"].list.len())
    assert len(rows) == len(POOL)
    assert kept(rows)["id"].is_unique().all()
    assert {1, 2, 3} <= {*sizes}
    for row in rows.filter(pl.col("demonstrations").list.len() > 0).iter_rows(named=True):
        id_, *others = row["parents"]
        assert others == row["demonstrations"]
        assert len({id_, *others}) == len(others) + 1, "no row is its own demonstration"
        expected = [text for one in (*others, id_) for text in texts[one]]
        assert contents(row["messages"]) == expected
        flags = [turn["train"] for turn in row["messages"] if turn["role"] == "assistant"]
        assert flags == [False] * len(others) + [None]
        assert row["id"] == record_id(
            [{k: v for k, v in turn.items() if v is not None} for turn in row["messages"]]
        )
        assert len(others) <= row["num_shots"]
        compared = isinstance(method, Bm25 | Vectors)
        assert all((value is not None) == compared for value in row["similarities"])


def test_without_demonstrations_a_row_is_the_record_that_came(ctx: Context) -> None:
    rows = shown(ctx, num_shots=(0, 0))
    assert_frame_equal(rows.select(POOL.columns), POOL)
    mixed = shown(ctx, num_shots=(0, 2)).filter(num_shots=0)
    assert 50 < len(mixed) < 150
    columns = ["id", "messages", "origins", "parents", "extra"]
    assert_frame_equal(mixed.select(columns), POOL.join(mixed, "id", "semi").select(columns))


def test_the_number_of_each_row_is_drawn_from_seed_and_id(ctx: Context) -> None:
    first = shown(ctx, num_shots=(0, 3))
    counts = Counter(first["num_shots"])
    assert set(counts) == {0, 1, 2, 3}
    assert all(abs(n - 75) < 35 for n in counts.values())
    some = shown(ctx, WITH_VECTORS[:90], examples=WITH_VECTORS, num_shots=(0, 3))
    assert some["num_shots"].to_list() == first["num_shots"][:90].to_list()
    other = shown(ctx, num_shots=(0, 3), seed=1)
    assert other["num_shots"].to_list() != first["num_shots"].to_list()


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_the_order_of_rows_and_their_number_change_nothing(ctx: Context, method: Any) -> None:
    """Each row's demonstrations depend on seed, id and the examples."""
    order = random.Random(0).sample(range(len(POOL)), 100)
    whole = shown(ctx, method=method, seed=3)
    by_query = dict(zip(POOL["id"], whole["demonstrations"].to_list(), strict=True))
    some = WITH_VECTORS[order]
    shuffled = shown(ctx, some, examples=WITH_VECTORS[::-1], method=method, seed=3)
    assert shuffled["demonstrations"].to_list() == [by_query[id_] for id_ in some["id"]]


def similarity(a: str, b: str) -> float:
    left, right = ({*text.lower().split()} for text in (a, b))
    return len(left & right) / len(left | right)


def test_retrieved_rows_are_closer_than_random_ones(ctx: Context) -> None:
    prompts = {row["id"]: row["messages"][0]["content"] for row in POOL.iter_rows(named=True)}
    means = {}
    for method in (Random(), Bm25()):
        pairs = [
            (id_, other)
            for id_, others in zip(
                POOL["id"], shown(ctx, method=method)["demonstrations"].to_list(), strict=True
            )
            for other in others
        ]
        means[method.name] = np.mean([similarity(prompts[a], prompts[b]) for a, b in pairs])
    assert means["bm25"] > 1.5 * means["random"]


def test_the_nearest_vectors_are_shown_by_all_cosines(ctx: Context) -> None:
    rows = shown(ctx, method=Vectors(), order="similar_first", near_duplicate=1.0)
    vectors = np.array(WITH_VECTORS["vector"].to_list(), np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors.T
    position = {id_: i for i, id_ in enumerate(POOL["id"])}
    complete = 0
    for i, row in enumerate(rows.iter_rows(named=True)):
        others = [position[id_] for id_ in row["demonstrations"]]
        assert np.allclose(row["similarities"], cosines[i, others], atol=1e-6)
        assert row["similarities"] == sorted(row["similarities"], reverse=True)
        best = [j for j in np.argsort(-cosines[i]) if j != i][: len(others)]
        complete += others == best
    assert complete > 280, "all but those whose best may not be shown"


@pytest.mark.proof
def test_an_embedder_takes_the_place_of_the_column(ctx: Context) -> None:
    embedder = Embedder(model=str(DATA / "models/potion-base-4m"))
    rows = shown(ctx, POOL[:60], method=Vectors(), embedder=embedder)
    assert rows["similarities"].list.mean().drop_nulls().mean() > 0.2
    assert rows["demonstrations"].list.len().min() > 0


ANSWER = "A secret."
FORBIDDEN = {
    "equal but for case": ("name a River of france!", "The Loire."),
    "a near-duplicate": ("Name a river of France! Please.", "The Seine, sir."),
}


@pytest.mark.parametrize("method", [Random(), Bm25()], ids=lambda method: method.name)
@pytest.mark.parametrize("text", FORBIDDEN.values(), ids=FORBIDDEN)
def test_what_gives_the_answer_away_is_never_shown(
    ctx: Context, method: Any, text: tuple[str, str]
) -> None:
    rows = frame([record("Name a river of France!", ANSWER), record(*text), record("Sing!", "La.")])
    result = shown(ctx, rows, method=method, num_shots=(3, 3), near_duplicate=0.6)
    for row in result.iter_rows(named=True):
        own = contents(row["messages"])[-1]
        others = contents(row["messages"])[1:-2:2]
        assert own == "La." or not {ANSWER, text[1]} & {*others}
    # The control: with the threshold of equal texts the near-duplicate is shown.
    loose = shown(ctx, rows, method=method, num_shots=(3, 3), near_duplicate=1.0)
    expected = 0 if text[1] == "The Loire." else 2
    both = loose["demonstrations"].list.len().to_list()
    assert sum(n > 0 for n in both) >= expected


def test_rows_of_one_parent_or_one_input_are_never_shown_together(ctx: Context) -> None:
    siblings = [{**record(f"Say {n}.", str(n)), "parents": ["p"]} for n in range(3)]
    child = {**record("Say much more.", "More."), "parents": [siblings[0]["id"]]}
    rows = frame([*siblings, child])
    result = shown(ctx, rows, num_shots=(4, 4), near_duplicate=1.0)
    family = {row["id"] for row in siblings}
    for id_, others in zip(rows["id"], result["demonstrations"].to_list(), strict=True):
        assert not (id_ in family and family & {*others})
        assert {id_, *others} != {child["id"], siblings[0]["id"]}
    tasks = [("Translate.", "Bonjour le monde"), ("Count the words.", "bonjour  le monde")]
    same = alpaca([{"instruction": i, "input": x, "output": i} for i, x in tasks])
    assert shown(ctx, same, num_shots=(1, 1))["demonstrations"].list.len().to_list() == [0, 0]


def test_a_long_instruction_does_not_make_all_rows_of_a_task_alike(ctx: Context) -> None:
    instruction = "Say whether this review of a film is positive or negative, in a single word."
    words = ["A delight", "Dreadful stuff", "I slept well", "Great songs"]
    rows = alpaca([{"instruction": instruction, "input": w, "output": w[0]} for w in words])
    result = shown(ctx, rows, num_shots=(3, 3))
    assert result["demonstrations"].list.len().to_list() == [3] * 4
    assert all(start == len(instruction) + 2 for start in result["input_start"])


def test_held_out_rows_and_their_like_are_never_shown(ctx: Context) -> None:
    held = POOL[:40]
    alike = frame(
        record(f"{row['messages'][0]['content']}", "Another answer.")
        for row in held[:20].iter_rows(named=True)
    )
    pool = pl.concat([POOL, alike.select(POOL.columns)]).unique("id").sort("id")
    result = demonstrations(ctx, POOL[40:], pool, held, num_shots=(4, 4))
    out = {*held["id"], *alike["id"]}
    used = {id_ for ids in result["demonstrations"].to_list() for id_ in ids}
    assert not out & used
    assert len(used) > 150
    control = demonstrations(ctx, POOL[40:], pool, num_shots=(4, 4))
    assert out & {id_ for ids in control["demonstrations"].to_list() for id_ in ids}


def test_an_input_like_a_held_out_one_is_never_shown(ctx: Context) -> None:
    same = "and the cat sat on the old mat again"
    held, alike = (
        frame([record(f"Fix\n\n{word} {same}", "Done.", input_start=5)]) for word in ("One", "Two")
    )
    rows, free = (
        conversations([(request, "Yes.")]) for request in ("Is tea hot?", "Name a long river.")
    )
    pool = pl.concat([alike, free])
    options: dict[str, Any] = {"num_shots": (2, 2), "near_duplicate": 0.75}
    for queries, held_out in ((held, None), (rows, held)):
        result = demonstrations(ctx, queries, pool, held_out, **options)
        assert result["demonstrations"].to_list() == [free["id"].to_list()]
    assert len(demonstrations(ctx, rows, pool, **options)["demonstrations"][0]) == 2


def test_a_row_of_a_few_letters_is_in_no_language() -> None:
    rows = conversations([("2 + 2?", "4"), ("Oui.", "Non."), ("Who sings at night?", "Whales do.")])
    assert Counter(languages_of(rows)) == {None: 2, "en": 1}


def test_labels_have_no_fixed_order(ctx: Context) -> None:
    """Each place before the row holds each label about as often."""
    texts = [f"Review {n} {random.Random(n).random()}: film" for n in range(400)]
    rows = conversations([(t, ("good", "bad")[n % 2]) for n, t in enumerate(texts)])
    for method in (Random(), Bm25()):
        result = shown(ctx, rows, method=method, num_shots=(4, 4), near_duplicate=1.0)
        for place in range(4):
            labels = Counter(m[2 * place + 1]["content"] for m in result["messages"])
            assert 120 < labels["good"] < 280, (method.name, place, labels)
    ordered = shown(ctx, rows, method=Bm25(), order="similar_last", near_duplicate=1.0)
    for values in ordered["similarities"].to_list():
        assert values == sorted(values)


def test_examples_share_the_group_and_the_language(ctx: Context) -> None:
    language = dict(WITH_VECTORS.select("id", "language").iter_rows())
    rows = shown(ctx, method=SPhinX(language="language"))
    grouped = shown(ctx, group_by="language", method=Bm25())
    for result in (rows, grouped):
        for id_, others in zip(POOL["id"], result["demonstrations"].to_list(), strict=True):
            assert {language[other] for other in others} <= {language[id_]} - {None}
            assert bool(others) == (language[id_] is not None) or result is grouped
    spoken_in = conversations(
        [
            ("Wie heißt die Hauptstadt von Frankreich und wo liegt sie?", "Sie heißt Paris."),
            ("Was essen die Kühe auf der Weide am liebsten?", "Kühe fressen gern Gras."),
            ("What do the cows in the field like to eat best?", "They like grass."),
            ("Where does the river Thames flow into the sea?", "It does so near Southend."),
        ]
    )
    result = shown(ctx, spoken_in, method=SPhinX(), num_shots=(3, 3))
    assert result["demonstrations"].list.len().to_list() == [1] * 4


def test_a_budget_leaves_whole_demonstrations_out_and_never_cuts(ctx: Context) -> None:
    limit = 220
    options: dict[str, Any] = {"method": Bm25(), "num_shots": (4, 4)}
    some = {"rows": WITH_VECTORS[:80], "examples": WITH_VECTORS}
    rows = shown(ctx, **some, model=TINYLM, max_tokens=limit, **options)
    free = shown(ctx, **some, **options)
    tokenizer = tokenizer_of(TINYLM)
    texts = [rendered_text(tokenizer, messages) for messages in rows["messages"]]
    lengths = token_lengths(tokenizer, texts).tolist()
    assert rows["tokens"].to_list() == lengths
    alone = [rendered_text(tokenizer, messages) for messages in POOL["messages"][:80]]
    own = token_lengths(tokenizer, alone)
    assert all(n <= max(limit, o) for n, o in zip(lengths, own, strict=True))
    for before, row in zip(free.iter_rows(named=True), rows.iter_rows(named=True), strict=True):
        both = [*row["demonstrations"], *row["dropped_demonstrations"]]
        assert sorted(both) == sorted(before["demonstrations"])
        assert (row["dropped_tokens"] > 0) == bool(row["dropped_demonstrations"])
        assert contents(row["messages"])[-2:] == contents(before["messages"])[-2:]
    dropped = rows["dropped_demonstrations"].list.len()
    assert ((dropped > 0) & (dropped < 4)).sum() > 15
    # What is too long by itself stays as it was, and one long example does not take others along.
    assert ((own > limit) == (rows["tokens"].to_numpy() > limit)).all()


@pytest.mark.parametrize("layout", ["turns", "text"])
def test_odd_rows_stay_whole_or_say_why(ctx: Context, layout: Any) -> None:
    call = {"id": "c", "name": "add", "arguments": "{}"}
    odd: list[list[dict[str, Any]]] = [
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Sum?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "4", "tool_call_id": "c"},
            {"role": "assistant", "content": "4"},
        ],
        [
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": "So.", "reasoning": "Hm."},
        ],
        [{"role": "user", "content": "为什么天空是蓝色的？"}],
        [{"role": "user", "content": "x" * 50_000}, {"role": "assistant", "content": "y"}],
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}] * 2,
        [{"role": "user", "content": " "}, {"role": "assistant", "content": "Ho"}],
        [{"role": "assistant", "content": "Ho"}],
        [],
    ]
    rows = pl.DataFrame(
        [{**record(), "id": record_id(m), "messages": m} for m in odd], schema=RECORD_COLUMNS
    )
    options: dict[str, Any] = {"num_shots": (2, 2), "layout": layout}
    result = demonstrations(ctx, rows, POOL, **options)
    reasons = [None] * 5 + ["no_instruction"] * 3
    assert result["drop_reason"].to_list() == reasons
    assert (result["drop_reason"].is_null() == result["evidence"].is_null()).all()
    for before, after, others in zip(
        rows["messages"][:5], result["messages"], result["demonstrations"], strict=False
    ):
        assert len(others) == 2
        own = after[-len(before) :] if layout == "turns" else after
        first = next(i for i, turn in enumerate(before) if turn["role"] == "user")
        assert after[0]["role"] == before[0]["role"]
        for i, (old, new) in enumerate(zip(before, own, strict=True)):
            if layout == "text" and i == first:
                assert new["content"].endswith(old["content"])
            elif old["role"] != "system":
                assert {k: v for k, v in new.items() if k != "train"} == {
                    k: v for k, v in old.items() if k != "train"
                }
        trained = [t["train"] is not False for t in after if t["role"] == "assistant"]
        assert sum(trained) == (before[-1]["role"] == "assistant")
    # As examples none of them is of use but what is one request with one answer.
    lent = demonstrations(ctx, POOL[:20], rows, num_shots=(5, 5), near_duplicate=1.0)
    assert {id_ for ids in lent["demonstrations"].to_list() for id_ in ids} == {rows["id"][3]}


def test_as_text_the_row_ends_its_first_turn(ctx: Context) -> None:
    rows = shown(ctx, layout="text")
    for before, row in zip(POOL.iter_rows(named=True), rows.iter_rows(named=True), strict=True):
        request, answer = contents(row["messages"])
        assert answer == before["messages"][1]["content"]
        assert request.endswith(before["messages"][0]["content"])
        if before["input_start"] is not None:
            own = before["messages"][0]["content"][before["input_start"] :]
            assert request[row["input_start"] :] == own


def test_a_row_that_the_template_refuses_fails(ctx: Context, tmp_path: Path) -> None:
    template = tmp_path / "strict.jinja"
    template.write_text(
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
        "{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    )
    strict = LanguageModel(model=TINYLM.model, chat_template=str(template))
    rows = frame([record("Be.", "Hi", "Ho", roles=("system", "user", "assistant"))])
    result = demonstrations(ctx, rows, POOL, model=strict, max_tokens=500)
    assert result["error"].to_list()[0] is not None
    assert result["id"].to_list() == rows["id"].to_list()


def test_requests_are_equal_but_for_case_and_space() -> None:
    one, other = Request.of("Say  it.\n\nTEA", 9), Request.of("say it. tea")
    assert (one.key, one.instruction, one.input) == ("say it. tea", "say it.", "tea")
    assert (other.key, other.instruction, other.input) == ("say it. tea", "say it. tea", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_shots": [3, 1]}, "num_shots must be increasing, got [3, 1]"),
        ({"method": "similar"}, "method: there is no 'similar'"),
        ({"order": "similar_last", "max_tokens": 9}, "order must be random with method: random"),
    ],
)
def test_a_recipe_s_mistakes(options: dict[str, Any], message: str) -> None:
    [problem] = problems("compose.demonstrations", TINYLM, **options)
    assert problem.startswith(message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 9}, "max_tokens and model must be given together, got max_tokens alone"),
        ({"model": TINYLM}, "max_tokens and model must be given together, got model alone"),
        ({"embedder": Embedder(model="any")}, "embedder must be left out with method: random"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], message: str) -> None:
    check = find("compose.demonstrations").check
    assert check is not None
    with pytest.raises(OptionError, match=message):
        check(options_of(demonstrations, **options))
