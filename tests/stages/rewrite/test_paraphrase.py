"""Paraphrases: what a text says survives, or the text is dropped with the reason."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any, Final

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.models import LanguageModel
from stages.rewrite.paraphrase import S3FT, Physics, Steps, Unnatural, Variants, paraphrase
from stages.rewrite.paraphrase.meaning import change, leak, plain_words
from stages.rewrite.paraphrase.physics import permuted
from tests.support.options import problems
from tests.support.rows import alpaca, conversations, frame, kept, record, self_instruct
from tests.support.scripted import Answer, scripted
from tests.support.teacher import saying

NO_MODEL: Final = LanguageModel(model="none")
METHODS: Final = (Unnatural(), S3FT(), Steps(), Physics(), Variants(kinds=("wording", "style")))
EACH: Final = pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
POOL: Final = self_instruct(60)
ONE: Final = conversations([("Name a sea that is cold.", "It is the one in the north.")])


def run(
    ctx: Context, script: Callable[[str], Answer], rows: pl.DataFrame = ONE, **more: Any
) -> Any:
    return paraphrase(scripted(ctx, script), rows, model=NO_MODEL, **more)


def writer(*texts: str, same: str = "yes") -> Callable[[str], Answer]:
    """A model that writes these texts in turn, and as a judge always answers alike."""
    number = iter(range(1_000))

    def script(prompt: str) -> Answer:
        if "Answer yes or no." in prompt:
            return same, "stop"
        return texts[next(number) % len(texts)], "stop"

    return script


def facts(ctx: Context) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((ctx.files / "paraphrases.json").read_text("utf-8"))
    return read


def reasons(rows: pl.DataFrame) -> list[str | None]:
    return rows["drop_reason"].to_list()


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("Add 12 and 30.", "What is the sum of 30 and 12?", None),
        ("Add 12 and 30.", "What is the sum of 21 and 30?", "number_changed"),
        ("Add 12 and 30.", "What is the sum of twelve and 30?", "number_changed"),
        ("Write two lines.", "Compose 2 lines.", None),
        ("Write two lines.", "Compose three lines.", "number_changed"),
        ("Compute .75 of the sum.", "What is .57 of the sum?", "number_changed"),
        ("Compute .75 of the sum.", "What is 0.75 of the sum?", None),
        ("Use b12 here please.", "Please use b21 here.", "number_changed"),
        ("Multiply 10x20 now.", "Now multiply 10x02.", "number_changed"),
        ("Go on to v1.25 now.", "Now go on to v1.52.", "number_changed"),
        ("Add -5 to the total of 3.", "To the total of 3 add 5.", "number_changed"),
        ("Add −5 to the total of 3.", "To the total of 3 add -5.", None),
        ("Walk 3-5 km on 2020-01-05.", "On 2020-01-05, walk from 3 to 5 km.", None),
        ("Pay 1,000 at once.", "At once 1000 is to be paid.", None),
        ("Count to 1.5 slowly.", "Slowly count up to 1.5, please.", None),
        ("Count to 1.5 slowly.", "Slowly count up to 15, please.", "number_changed"),
        ("Put {name} into it.", "Fill {name} in there.", None),
        ("Put {name} into it.", "Fill the name in there.", "slot_lost"),
        ("Put the name into it.", "Fill {name} in there.", "slot_lost"),
        ("Dear [NAME], come.", "Please come.", "slot_lost"),
        ('Translate "good night" now.', 'Now put "good night" into the other language.', None),
        ('Translate "good night" now.', "Now translate a greeting.", "meaning_changed"),
        ("What does `x = f(a)` do?", "Say what `x = f(a)` does.", None),
        ("What does `x = f(a)` do?", "Say what `x = f(b)` does.", "meaning_changed"),
        ("Why did Ada leave Bonn?", "For which reason did Ada leave Bonn?", None),
        ("Why did Ada leave Bonn?", "Tell me why she went from Bonn.", "name_changed"),
        ("Why did Ada leave Bonn?", "For which reason did Ada leave Köln?", "name_changed"),
        ("See https://a.org/b now.", "Now look at https://a.org/c please.", "name_changed"),
        ("Name a sea.", "name a SEA!", "identical"),
        ("Name a sea.", "", "meaning_changed"),
        ("Name a sea.", "I'm sorry, but I can't help with that.", "meaning_changed"),
        ("写一首关于春天的诗。", "Write a poem about spring.", "language_changed"),
        ("写一首关于春天的诗。", "请以春天为题写诗一首。", None),
        ("第3条是什么？", "第4条说了什么？", "number_changed"),
        ("Raise it by 5% in May.", "In May, raise it by 5.", "number_changed"),
        ("Raise it by 5 in May.", "In May, raise it by 5 percent.", "number_changed"),
        ("Raise it by 5% in May.", "In May, raise it by 5 percent.", None),
        ("Monte de 5 % le prix.", "Le prix monte de 5 pour cent.", None),
        ("Take five percent of it.", "Of it, take 5%.", None),
        ("Take 12 from 30.", "Take 30 from 12.", "number_changed"),
        ("Buy 3 apples or 5 pears.", "Get 5 apples or 3 pears.", "number_changed"),
        ("Pay $20 for it, and €30 for her.", "Give $30 for it, and €20 for her.", "number_changed"),
        ("Take 12 from 30.", "From 30, take 12.", None),
        ("Buy 3 apples or 5 pears.", "Get 5 pears or 3 apples.", None),
        ("Add 12 and 30 now.", "Now add 30 and 12.", None),
        (
            "Describe how the gardener waters the young trees before the sun rises.",
            "Beschreibe, wie die Leute im Garten vor der Dämmerung die jungen Bäume gießen.",
            "language_changed",
        ),
    ],
)  # fmt: skip
def test_what_a_text_must_keep(before: str, after: str, reason: str | None) -> None:
    result = change(before, after)
    assert (result and result[0]) == reason, result


PIECES: Final = st.sampled_from(
    ["17", "3.25", '"as it is"', "`len(x)`", "{slot}", "{{ value }}", "[NAME]", "Xanthippe"]
)


@given(st.lists(PIECES, min_size=1, max_size=4, unique=True), st.data())
def test_every_piece_survives_or_the_text_is_dropped(pieces: list[str], data: Any) -> None:
    """Whatever the order; and one piece less is noticed, whichever it is."""
    before = "Please explain what becomes of " + " and ".join(pieces)
    order = data.draw(st.permutations(pieces))
    assert change(before, "We would like to know about " + " or ".join(order)) is None
    lost = data.draw(st.sampled_from(pieces))
    rest = [piece for piece in order if piece != lost]
    assert change(before, "We would like to know about it: " + " or ".join(rest)) is not None


def test_rules_take_the_time_of_reading() -> None:
    for piece in ('"', "`", "{", "[", "1,", "<a", "A ", "。", "a.", "_"):
        text = piece * (50_000 // len(piece))
        start = time.process_time()
        change(text, text + " more")
        leak(text, text, text)
        assert time.process_time() - start < 2, piece


def test_an_answer_that_an_instruction_tells_is_noticed() -> None:
    assert leak("Name a sea.", "Name the Baltic sea.", "Baltic")[0] == "answer_leaked"  # type: ignore[index]
    assert leak("Is it Baltic?", "Is the sea Baltic?", "Baltic") is None
    assert leak("A or B?", "Choose a letter, A or B.", "A") is None


@EACH
def test_an_echo_is_no_variant(ctx: Context, method: Any) -> None:
    def script(prompt: str) -> Answer:
        if "Answer yes or no." in prompt:
            return "yes", "stop"
        place = 1 if "north" in prompt or isinstance(method, S3FT) else 0
        return ONE["messages"][0][place]["content"], "stop"

    rows = run(ctx, script, method=method)
    if isinstance(method, S3FT):
        assert rows["id"].to_list() == ONE["id"].to_list(), "its own answer is the gold one"
    else:
        assert not len(kept(rows))


@EACH
def test_a_changed_number_is_caught_whatever_the_judge_says(ctx: Context, method: Any) -> None:
    pool = conversations([("Name 3 seas that are cold.", "There are 4 of them up in the north.")])
    rows = run(ctx, writer("Name 5 seas which are cold."), pool, method=method)
    if isinstance(method, S3FT):
        rows = run(
            ctx, writer("No.", "There are 5 of them in the north.", same="no"), pool, method=method
        )
        assert rows["route"].to_list() == ["gold"]
        assert "number_changed" in rows["routes_left"][0]
    elif isinstance(method, Steps):
        assert pool["messages"][0][0]["content"] in rows["messages"][0][0]["content"]
    else:
        assert set(reasons(rows)) == {"number_changed"}


def test_variants_of_a_row_are_distinct_and_come_from_it(ctx: Context) -> None:
    texts = ("Say which sea is cold.", "Say: which sea is cold?", "Which cold sea is there?")
    rows = run(ctx, writer(*texts), method=Unnatural(num_variants=3))
    assert reasons(rows) == [None, "identical", None]
    assert json.loads(rows["evidence"][1]) == {"same_as_variant": 1}
    assert set(rows["parents"].explode()) == set(ONE["id"])
    assert rows["number"].to_list() == [1, 2, 3]
    assert [m[1]["content"] for m in rows["messages"]] == ["It is the one in the north."] * 3
    assert rows["origins"][0][0]["license"] == ONE["origins"][0][0]["license"]
    assert facts(ctx)["ended"] == {"kept": 2, "identical": 1}


WITH_INPUT: Final = alpaca([{"instruction": "Sort these.", "input": "b, a", "output": "a, b"}])


@pytest.mark.parametrize(
    ("new", "user", "start"),
    [
        ("Bring these into order:\n\n{INPUT}", "Bring these into order:\n\nb, a", 25),
        ("Bring {INPUT} into order.", "Bring b, a into order.", None),
    ],
)
def test_a_reformulation_has_its_own_instruction_input_and_output(
    ctx: Context, new: str, user: str, start: int | None
) -> None:
    (row,) = run(ctx, writer(new), WITH_INPUT, method=Unnatural(num_variants=1)).to_dicts()
    assert (row["messages"][0]["content"], row["input_start"]) == (user, start)
    extra = json.loads(row["extra"])["reformulation"]
    assert (extra["instruction"], extra["slot"]) == (new, "{INPUT}")
    assert (extra["input"], extra["output"]) == ("b, a", "a, b")


@pytest.mark.parametrize("new", ["Bring these into order.", "{INPUT}: order {INPUT} now."])
def test_a_slot_that_is_lost_or_doubled_loses_the_variant(ctx: Context, new: str) -> None:
    rows = run(ctx, writer(new), WITH_INPUT, method=Unnatural(num_variants=1))
    assert reasons(rows) == ["slot_lost"]
    rows = run(ctx, writer(new), WITH_INPUT, method=Unnatural(num_variants=1, slot="end"))
    assert reasons(rows) == [None if "{" not in new else "slot_lost"]


def test_an_input_that_holds_the_mark_gets_another(ctx: Context) -> None:
    pool = alpaca([{"instruction": "Sort these.", "input": "{INPUT} x", "output": "x"}])
    rows = run(ctx, writer("Order this: {INPUT 1}"), pool, method=Unnatural(num_variants=1))
    assert rows["messages"][0][0]["content"] == "Order this: {INPUT} x"


@pytest.mark.parametrize("check", ["entailment", "judge"])
@pytest.mark.parametrize(
    ("said", "reason"), [("yes", None), ("no", "meaning_changed"), ("?", "unreadable")]
)
def test_the_judge_decides_after_the_rules(
    ctx: Context, check: Any, said: str, reason: str | None
) -> None:
    script = writer("Say which sea is cold.", same=said)
    rows = run(ctx, script, method=Unnatural(num_variants=1), check=check)
    assert reasons(rows) == [reason]


def test_one_direction_that_does_not_follow_is_enough(ctx: Context) -> None:
    def script(prompt: str) -> Answer:
        if "Answer yes or no." in prompt:
            return ("no" if prompt.startswith("First text:\nSay") else "yes"), "stop"
        return "Say which sea is cold.", "stop"

    method = Unnatural(num_variants=1)
    assert reasons(run(ctx, script, method=method)) == ["meaning_changed"]
    assert reasons(run(ctx, script, method=method, check="judge")) == [None]
    assert reasons(run(ctx, script, method=method, check="rules")) == [None]


@pytest.mark.parametrize("method", [Unnatural(), S3FT()], ids=lambda m: m.name)
def test_a_judge_that_always_says_yes_is_noticed(
    ctx: Context, method: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pool = POOL.head(8)
    run(ctx, writer("Please do tell us more."), pool, method=method)
    check = facts(ctx)["check"]
    assert check["always_yes"]
    assert check["controls_accepted"] == check["controls"] > 1
    assert "decides nothing" in caplog.text
    run(ctx, writer("Please do tell us more.", same="no"), pool, method=method)
    assert not facts(ctx)["check"]["always_yes"]


def routes(rows: pl.DataFrame) -> list[str]:
    return rows["route"].to_list()


@pytest.mark.parametrize(
    ("own", "reworded", "judged", "route"),
    [
        ("Adding gives it. The answer is 9.", "?", "no", "own"),
        ("The answer is 8.", "9 is what 4 and 5 make.\nThe answer is 9.", "yes", "paraphrase"),
        ("The answer is 8.", "7 is what 4 and 5 make.\nThe answer is 7.", "yes", "gold"),
        ("", "", "yes", "gold"),
        ("A long answer that has no final one in it at all.", "?", "yes", "own"),
        ("A long answer that has no final one in it at all.", "", "?", "gold"),
    ],
)
def test_a_row_goes_by_the_route_of_the_student(
    ctx: Context, own: str, reworded: str, judged: str, route: str
) -> None:
    pool = conversations([("How much are 4 and 5?", "4 and 5 is 9.\nThe answer is 9.")])

    def script(prompt: str) -> Answer:
        if "Answer yes or no." in prompt:
            return judged, "stop"
        return (own if prompt == "How much are 4 and 5?" else reworded), "stop"

    (row,) = run(ctx, script, pool, method=S3FT(equivalence="answer_or_judge")).to_dicts()
    answer = {"own": own, "paraphrase": reworded, "gold": "4 and 5 is 9.\nThe answer is 9."}
    assert (row["route"], row["messages"][1]["content"]) == (route, answer[route])
    assert (row["id"] == pool["id"][0]) == (route == "gold")
    if route != "gold":
        assert row["parents"] == [pool["id"][0]]
        assert json.loads(row["extra"])["gold"] == answer["gold"]
    assert (
        list(json.loads(row["routes_left"]))
        == ["own", "paraphrase"][: ["own", "paraphrase", "gold"].index(route)]
    )


def test_the_routes_sum_to_the_rows(ctx: Context) -> None:
    """Rows that are not for the student to write keep their answer; what failed has no route."""
    tools = record("Find it.", "Found.")
    tools["messages"][1]["reasoning"] = "Hm."
    turns = [record("Hi.", "Hello.", "And?", "Well."), tools, record("Why?"), record("", "So.")]
    pool = pl.concat([POOL.head(30), frame(turns)]).sort("id")

    def script(prompt: str) -> Answer:
        draw = random.Random(prompt).random()
        if "Answer yes or no." in prompt:
            return ("yes" if draw < 0.5 else "no"), "stop"
        return ("away", "error") if draw < 0.1 else ("It is as it was said to be.", "stop")

    rows = run(ctx, script, pool, method=S3FT())
    failed = rows["error"].is_not_null().sum()
    counts = facts(ctx)["routes"]
    assert failed > 0
    assert sum(counts.values()) + failed == len(rows) == len(pool)
    assert set(rows.filter(pl.col("route") == "gold")["id"]) <= set(pool["id"])
    assert rows.filter(pl.col("error").is_not_null())["route"].null_count() == failed
    assert counts["gold"] > 4
    assert counts["own"] > 0


LIST: Final = "1. Read the text.\n2. Count what is in it.\n3. Write the number."


def test_steps_stand_behind_the_definition_and_before_the_input(ctx: Context) -> None:
    (row,) = run(ctx, writer(LIST), WITH_INPUT, method=Steps()).to_dicts()
    text = row["messages"][0]["content"]
    assert text.startswith("Sort these.\n\n")
    assert text[: row["input_start"]].strip().endswith(LIST)
    assert text[row["input_start"] :] == "b, a"
    assert row["messages"][1]["content"] == "a, b"
    assert row["variant"] == "steps"


def test_the_shuffled_arm_has_the_same_steps_and_requests(ctx: Context) -> None:
    pool = POOL.head(12)
    arms = {}
    for order in ("written", "shuffled"):
        context = scripted(ctx, writer(LIST))
        rows = kept(paraphrase(context, pool, model=NO_MODEL, method=Steps(order=order)))  # type: ignore[arg-type]
        arms[order] = [json.loads(extra)["steps"] for extra in rows["extra"]], context.engine.calls
    written, shuffled = arms["written"], arms["shuffled"]
    assert written[1] == shuffled[1]
    assert len(written[0]) == len(shuffled[0]) > 8
    for one, other in zip(written[0], shuffled[0], strict=True):
        assert one != other
        assert sorted(one) == sorted(other)


@pytest.mark.parametrize("text", ["No steps here.", "1. Only one.", "1. Twice.\n2. Twice."])
def test_too_few_steps_are_none(ctx: Context, text: str) -> None:
    assert reasons(run(ctx, writer(text), method=Steps())) == ["written_unparsed"]


def test_sentences_are_permuted_before_they_are_rewritten(ctx: Context) -> None:
    text = "Ada wrote it. It was short. Bo read it."
    pool = conversations([("Who wrote it?", text)])
    prompts = []

    def script(prompt: str) -> Answer:
        prompts.append(prompt)
        return ("yes" if "Answer yes or no." in prompt else "Bo read what Ada wrote."), "stop"

    rows = run(ctx, script, pool, method=Physics(num_variants=4, permute=True))
    shown = [p.split("Text:\n")[1].split("\n\nWrite")[0] for p in prompts if "Text:\n" in p][:4]
    assert len(set(shown)) > 1
    assert all(sorted(s.split(". ")) != [] and plain_words(s) != [] for s in shown)
    assert {tuple(sorted(plain_words(s))) for s in shown} == {tuple(sorted(plain_words(text)))}
    assert kept(rows)["variant"].to_list() == ["permuted"]
    assert permuted("One sentence.", "x") == "One sentence."


def test_kinds_of_variants_change_one_thing_each(ctx: Context) -> None:
    def script(prompt: str) -> Answer:
        if "Answer yes or no." in prompt:
            return "yes", "stop"
        if "another style" in prompt:
            return "The north has it.", "stop"
        return ("Which sea was cold?" if "the past" in prompt else "Say a cold sea."), "stop"

    kinds = ("wording", "past", "style")
    rows = run(ctx, script, method=Variants(kinds=kinds))
    assert tuple(rows["variant"]) == kinds
    texts = [[m["content"] for m in messages] for messages in rows["messages"]]
    old = [m["content"] for m in ONE["messages"][0]]
    assert texts == [["Say a cold sea.", old[1]], ["Which sea was cold?", old[1]],
                     [old[0], "The north has it."]]  # fmt: skip


def test_a_reworded_instruction_keeps_its_input(ctx: Context) -> None:
    (row,) = run(ctx, writer("Bring these into order."), WITH_INPUT, method=Variants()).to_dicts()
    content = row["messages"][0]["content"]
    assert (content[: row["input_start"]], content[row["input_start"] :]) == (
        "Bring these into order.\n\n",
        "b, a",
    )


@EACH
def test_rows_do_not_depend_on_the_others(ctx: Context, method: Any) -> None:
    def script(prompt: str) -> Answer:
        if "Answer yes or no." in prompt:
            return ("yes" if random.Random(prompt).random() < 0.6 else "no"), "stop"
        return f"Please do it {'so ' * (len(prompt) % 7)}for us.\n1. Begin.\n2. End it.", "stop"

    pool = POOL.head(16)
    whole = run(ctx, script, pool, method=method)
    part = run(ctx, script, pool.filter(pl.Series([i % 3 > 0 for i in range(16)])), method=method)
    verdicts = [n for n in whole.columns if n not in ("origins", "journal", "evidence")]
    rows = {str(row) for row in whole.select(verdicts).to_dicts()}
    of_part = [row for row in part.select(verdicts).to_dicts() if row["drop_reason"] != "duplicate"]
    assert {str(row) for row in of_part} <= rows
    turned = run(ctx, script, pool.reverse(), method=method)
    assert {str(row) for row in turned.select(verdicts).to_dicts()} == rows


@EACH
@pytest.mark.parametrize("said", ["", "}{ %% \x00 [[", "I'm sorry, but I can't help with that."])
def test_a_useless_model_makes_no_rows(ctx: Context, method: Any, said: str) -> None:
    rows = run(ctx, saying((said, "stop")), POOL.head(5), method=method)
    assert set(kept(rows)["id"]) <= set(POOL["id"])
    assert rows["error"].null_count() == len(rows)
    dropped = rows.filter(pl.col("drop_reason").is_not_null())
    assert dropped["evidence"].null_count() == 0


def odd_rows() -> pl.DataFrame:
    with_tools = record("Find it.", "Done.")
    with_tools["messages"][1]["tool_calls"] = [{"id": None, "name": "f", "arguments": "{}"}]
    with_tools["messages"][1]["content"] = None
    reasoned = record("Why?", "So.")
    reasoned["messages"][1]["reasoning"] = "Because."
    return frame(
        [
            with_tools,
            reasoned,
            record("", "So."),
            record("Why?", ""),
            record("Why?"),
            record("One.", "Two.", "Three.", "Four."),
            record("潮はなぜ満ちるのか。", "月が引くからである。"),
            record("Long. " * 9_000, "So it is. " * 5_000),
            record(
                "Be brief.",
                "Which sea is cold?",
                "The one up there.",
                roles=("system", "user", "assistant"),
            ),
        ]
    )


@EACH
def test_odd_rows_are_kept_whole_or_dropped_with_a_reason(ctx: Context, method: Any) -> None:
    rows = run(ctx, writer("Please say so."), odd_rows(), method=method)
    ended = {*reasons(rows)} - {None}
    if isinstance(method, S3FT):
        left = [json.loads(text).get("row") for text in rows["routes_left"]]
        ended = {*left} - {None}
        assert len(rows) == len(odd_rows())
    assert ended >= {"has_tools", "has_reasoning", "no_instruction", "no_answer", "multi_turn"}


def test_the_system_turn_stays(ctx: Context) -> None:
    pool = frame([record("Be brief.", "Which sea is cold?", "The one up there.",
                         roles=("system", "user", "assistant"))])  # fmt: skip
    rows = run(ctx, writer("Name the cold sea."), pool, method=Unnatural(num_variants=1))
    assert [m["role"] for m in rows["messages"][0]] == ["system", "user", "assistant"]


def test_methods_differ_in_their_requests_or_rows(ctx: Context) -> None:
    seen = {}
    methods = (*METHODS, Physics(permute=True), Steps(order="shuffled"), S3FT(equivalence="answer"),
               Variants(kinds=("past",)), Variants(kinds=("future",)))  # fmt: skip
    for method in methods:
        context = scripted(ctx, writer(LIST))
        rows = paraphrase(context, POOL.head(6), model=NO_MODEL, method=method)
        seen[method] = str([context.engine.calls, rows.drop("journal").to_dicts()])
    assert len(set(seen.values())) == len(methods)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"method": {"name": "steps"}, "num_controls": 2}, "num_controls"),
        ({"method": {"name": "s3ft"}, "check": "rules"}, "check"),
        ({"method": {"name": "s3ft", "equivalence": "answer"}, "min_probability": 0.9}, "min_prob"),
        ({"check": "rules", "min_mass": 0.1}, "min_mass"),
    ],
)
def test_options_that_nothing_uses_are_refused(options: dict[str, Any], what: str) -> None:
    (message,) = problems("rewrite.paraphrase", **options)
    assert what in message


@pytest.mark.proof
def test_tinylm_reformulates(ctx: Context) -> None:
    from tests.support.cases import TINYLM

    method = Unnatural(num_variants=2, slot="end")
    rows = paraphrase(ctx, POOL.head(4), model=TINYLM, method=method, check="rules", max_tokens=24)
    assert len(rows) == 8
    assert facts(ctx)["drafts"] == 8
