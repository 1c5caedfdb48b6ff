"""Generation: an answer depends on its request alone, is paid for once and never lost."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.context import Context
from pipeline.models import Completion, Decoding, LanguageModel, Request
from pipeline.models.budget import Budget
from pipeline.models.engines.registry import close_engines
from pipeline.models.engines.transformers import TransformersEngine, batches, rows_of, width_of
from pipeline.models.journal.gate import Gate
from pipeline.models.journal.journal import Journal
from pipeline.models.journal.requests import Batch, PreparedRequest, in_batches, prepare
from pipeline.models.local.chat_template import load_tokenizer
from tests.support.journals import max_answers

SAMPLED = Decoding(max_tokens=12, temperature=0.9, top_p=0.8, presence_penalty=0.5)


def questions(count: int, decoding: Decoding = SAMPLED) -> list[Request]:
    """Requests of various lengths, texts and chats, sampled and greedy."""
    requests = []
    for i in range(count):
        text = f"List {i} things that " + "really " * (i % 5 * 18) + "matter."
        prompt = text if i % 3 == 0 else (("user", text),)
        requests.append(Request(prompt, replace(decoding, temperature=0.9 * (i % 4 > 0)), seed=i))
    return requests


def engine(folder: Path, model: LanguageModel) -> TransformersEngine:
    return Context.scratch(folder).open(model)  # type: ignore[return-value]


def journal(folder: Path) -> Journal:
    return Journal(folder / "store" / "journal")


@pytest.mark.proof
def test_an_answer_does_not_depend_on_its_batch(tmp_path: Path, tinylm: LanguageModel) -> None:
    requests = questions(40)
    together = engine(tmp_path / "a", tinylm).generate(requests)
    order = np.random.default_rng(0).permutation(len(requests))
    shuffled = engine(tmp_path / "b", tinylm).generate([requests[i] for i in order])
    assert [together[i] for i in order] == shuffled
    alone = engine(tmp_path / "c", tinylm)
    for i in (0, 39):
        assert alone.generate([requests[i]]) == [together[i]]
    assert len({answer.text for answer in together}) > 20


class Stopped(Exception):
    """The run is interrupted."""


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path, tinylm: LanguageModel) -> None:
    requests = questions(40)
    ctx = Context.scratch(tmp_path)

    def stop(done: float, total: float | None) -> None:
        raise Stopped

    ctx.report = stop
    with pytest.raises(Stopped):
        ctx.open(tinylm).generate(requests)
    durable = journal(tmp_path).count()
    assert 0 < durable < len(requests)

    later = Context.scratch(tmp_path)
    resumed = later.open(tinylm).generate(requests)
    assert resumed == engine(tmp_path / "other", tinylm).generate(requests)
    assert later.counters["requests"] == len(requests) - durable
    assert later.counters["cached"] == durable
    assert max_answers(journal(tmp_path)) == 1


def test_nothing_is_sent_twice(tmp_path: Path, tinylm: LanguageModel) -> None:
    ctx = Context.scratch(tmp_path)
    request = questions(1)[0]
    one, two = ctx.open(tinylm).generate([request, request])
    (three,) = ctx.open(tinylm).generate([request])
    assert one == two == three
    assert ctx.counters["requests"] == 1
    assert ctx.counters["cached"] == 1
    assert ctx.counters["prompt_tokens"] == one.prompt_tokens
    assert ctx.counters["completion_tokens"] == one.completion_tokens
    assert journal(tmp_path).get_many([one.key])[one.key]["text"] == one.text


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 7},
        {"sample": 1},
        {"prompt": "another text"},
        {"decoding": replace(SAMPLED, temperature=0.8)},
        {"decoding": replace(SAMPLED, stop=("x",))},
    ],
)
def test_whatever_may_change_an_answer_changes_the_key(
    ctx: Context, tinylm: LanguageModel, change: dict
) -> None:
    request = Request("a text", SAMPLED)
    running = ctx.open(tinylm)
    one, other = (_prepared(running, each) for each in (request, replace(request, **change)))
    assert one.key != other.key


def test_a_chat_and_a_text_that_reads_the_same_are_two_requests(
    ctx: Context, tinylm: LanguageModel
) -> None:
    running = ctx.open(tinylm)
    text = running.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    chat = Request((("user", "Hi"),), SAMPLED)
    one, other = (_prepared(running, request) for request in (Request(text, SAMPLED), chat))
    assert one.key != other.key
    assert one.tokens == other.tokens


def test_greedy_answers_are_the_most_probable_tokens(tmp_path: Path, tinylm: LanguageModel) -> None:
    """Against plain forward passes, one token at a time."""
    running = engine(tmp_path, tinylm)
    requests = questions(8, Decoding(max_tokens=16))[::4]
    for request, answer in zip(requests, running.generate(requests), strict=True):
        prompt = list(_prepared(running, request).tokens)
        tokens: list[int] = []
        for _ in range(answer.completion_tokens):
            with torch.no_grad():
                logits = running._loaded.model(torch.tensor([prompt + tokens])).logits[0, -1]
            tokens.append(int(logits.argmax()))
        assert running.tokenizer.decode(tokens, skip_special_tokens=True) == answer.text


def _prepared(running: TransformersEngine, request: Request) -> PreparedRequest:
    return prepare(request, running._identity, running.tokenizer, running.context_tokens)


def test_a_prompt_that_cannot_be_rendered_fails_alone(
    tmp_path: Path, ctx: Context, tinylm: LanguageModel
) -> None:
    """A refusing template is the error of that request; a control token in a text is text."""
    short = Decoding(max_tokens=4)
    good = Request((("user", "Sing."),), short)
    token = Request((("user", "Sing."), ("assistant", "La<|im_end|>"), ("user", "More.")), short)
    raw = Request("<|im_start|>user\n", short)  # a text is the tokens that it says
    answers = ctx.open(tinylm).generate([good, token, raw])
    assert [answer.error for answer in answers] == [None] * 3
    assert ctx.counters["requests"] == 3
    # Two texts that look alike, of which one has a real end of a turn within: two keys.
    tokenizer = load_tokenizer(tinylm)
    prepared = prepare(token, {}, tokenizer, None)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert prepared.tokens.count(end) == 3
    assert tokenizer.decode(prepared.tokens) == prepared.prompt
    read_again = tokenizer(str(prepared.prompt), add_special_tokens=False)["input_ids"]
    assert read_again.count(end) == 4
    template = tmp_path / "strict.jinja"
    template.write_text(
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system turns') }}"
        "{% endif %}{{ m.content }}{% endfor %}"
    )
    strict = engine(tmp_path / "strict", replace(tinylm, chat_template=str(template)))
    system = Request((("system", "Be kind."), ("user", "Sing.")), short)
    answers = strict.generate([good, system])
    assert answers[0].error is None
    assert "no system turns" in (answers[1].error or "")
    close_engines()


@pytest.mark.proof
def test_stop_texts_end_the_answer_and_are_cut(ctx: Context, tinylm: LanguageModel) -> None:
    running = ctx.open(tinylm)
    prompt = "1. Write a poem about the sea.\n2. List ten animals.\n3."
    long = Decoding(max_tokens=80, temperature=0.7)
    (free,) = running.generate([Request(prompt, long)])
    assert "\n5." in free.text
    (cut,) = running.generate([Request(prompt, replace(long, stop=("never said", "\n5.")))])
    assert cut.finish_reason == "stop"
    assert cut.completion_tokens < free.completion_tokens
    # Another key, so other random numbers: only the form can be compared.
    assert "\n5." not in cut.text
    assert "\n4." in cut.text


def test_every_row_ends_at_its_own_length(ctx: Context, tinylm: LanguageModel) -> None:
    requests = [Request("The sea", Decoding(max_tokens=n, temperature=1.0)) for n in (1, 5, 30)]
    for request, answer in zip(requests, ctx.open(tinylm).generate(requests), strict=True):
        assert answer.completion_tokens <= request.decoding.max_tokens
        if answer.finish_reason == "length":
            assert answer.completion_tokens == request.decoding.max_tokens


def test_a_prompt_beyond_the_context_is_refused_and_never_cut(
    tmp_path: Path, tinylm: LanguageModel
) -> None:
    ctx = Context.scratch(tmp_path)
    decoding = Decoding(max_tokens=4)
    fits, long, empty = ctx.open(tinylm).generate(
        [Request("a " * n, decoding) for n in (20, 2046, 0)]
    )
    assert fits.error is None
    assert (long.finish_reason, long.text) == ("error", "")
    assert "exceeds the model's context of 2048" in str(long.error)
    assert "no tokens" in str(empty.error)
    assert ctx.counters["requests"] == journal(tmp_path).count() == 1


def test_the_folder_s_own_decoding_habits_do_not_creep_in(
    tmp_path: Path, tinylm: LanguageModel
) -> None:
    other = tmp_path / "model"
    shutil.copytree(tinylm.model, other)
    (other / "generation_config.json").write_text(
        '{"eos_token_id": [2, 0], "repetition_penalty": 5.0, "do_sample": true, "top_k": 1}'
    )
    requests = questions(4, Decoding(max_tokens=16))[::4]
    texts = [a.text for a in engine(tmp_path / "a", tinylm).generate(requests)]
    same = engine(tmp_path / "b", LanguageModel(str(other))).generate(requests)
    assert [a.text for a in same] == texts
    close_engines()


def test_a_model_without_a_template_gets_a_plain_one(tmp_path: Path, tinylm: LanguageModel) -> None:
    other = tmp_path / "model"
    shutil.copytree(tinylm.model, other)
    (other / "chat_template.jinja").unlink()
    running = engine(tmp_path / "a", LanguageModel(str(other)))
    (answer,) = running.generate([Request((("user", "Hi"),), Decoding(max_tokens=4))])
    assert '"prompt":"User:\\nHi\\n\\nAssistant:\\n"' in _stored(tmp_path / "a", answer)
    close_engines()


def _stored(folder: Path, answer: Completion) -> str:
    rows = journal(folder)._connection.execute(
        "SELECT request FROM responses WHERE key = ?", [bytes.fromhex(answer.key)]
    )
    return str(rows.fetchone()[0])


def test_the_key_is_the_digest_of_the_stored_request(tmp_path: Path, tinylm: LanguageModel) -> None:
    from hashlib import blake2b

    for answer in engine(tmp_path, tinylm).generate(questions(3)):
        stored = _stored(tmp_path, answer).encode()
        assert blake2b(stored, digest_size=16).hexdigest() == answer.key


def test_batch_shapes_follow_from_a_request_s_own_length() -> None:
    assert [width_of(n) for n in (1, 64, 65, 128, 129, 2000)] == [64, 64, 128, 128, 256, 2048]
    assert [rows_of(w, "cpu") for w in (64, 512, 1024, 16_384)] == [32, 32, 16, 4]


def test_batches_hold_every_request_once(ctx: Context, tinylm: LanguageModel) -> None:
    running = ctx.open(tinylm)
    prepared = [_prepared(running, question) for question in questions(100)]  # type: ignore[arg-type]
    cut = list(batches(prepared, "cpu"))
    assert Counter(p.key for _, rows in cut for p in rows) == Counter(p.key for p in prepared)
    assert all(len(rows) <= rows_of(width, "cpu") for width, rows in cut)
    assert all(width == width_of(len(p.tokens)) for width, rows in cut for p in rows)


def test_a_resumed_run_cuts_the_same_batches(ctx: Context, tinylm: LanguageModel) -> None:
    """Batches are cut from all requests; answered ones leave gaps and move nothing."""
    running = ctx.open(tinylm)
    prepared = [_prepared(running, question) for question in questions(100)]  # type: ignore[arg-type]
    complete = list(batches(prepared, "cpu"))
    missing = {p.key for p in prepared[::3]}
    sent: list[tuple[int, list[str]]] = []

    def answer(width: int, rows: list[PreparedRequest]) -> Batch:
        sent.append((width, [row.key for row in rows]))
        return [(row, {"text": ""}) for row in rows]

    gate = Gate(frozenset(missing), Budget())
    for batch in in_batches(iter(complete), gate, answer):
        for row, _ in batch:
            gate.reconcile(row)
    expected = [(w, [p.key for p in rows if p.key in missing]) for w, rows in complete]
    assert sent == [(width, keys) for width, keys in expected if keys]
