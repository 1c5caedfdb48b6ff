"""Answers to prompts that are there: by several models, many times, and in several ways.

- `answer`: the prompt as it stands. Re-answering a pool with a stronger model is
  Instruction Tuning with GPT-4 (Peng et al. 2023, arXiv:2304.03277); several models
  on one prompt is Ensemble-Instruct (Lee et al. 2023, arXiv:2310.13961).
- `explain`: under one of several system prompts that demand an explanation. Orca
  (Mukherjee et al. 2023, arXiv:2306.02707). The system prompt stays in the row.
- `reason`: a general guideline is adapted to the task, becomes an outline, and the
  outline a path of reasoning. ReGenesis (Peng et al. 2024, arXiv:2410.02108); each of
  several answers to one prompt follows another guideline.
- `context`: passages are found for the prompt, shown, and left out of the row: what
  Self-Specialization does (Kang et al. 2023, arXiv:2310.00160, with BM25; here TF-IDF).
- `continue`: a text is cut, and its continuation answers its beginning. Non-instructional
  Fine-tuning (Xie et al. 2024, arXiv:2409.00096).
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, Literal

import polars as pl

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models.base import Decoding, LanguageModel
from pipeline.stage import Documents, Records, stage
from schemas.records import Message
from stages._common.unused_options import refuse_idle
from stages._llm.drafts import (
    Draft,
    GenerateField,
    Prompt,
    RowMessages,
    generate_field,
    model_names,
    to_frame,
    user,
)
from stages._llm.prompts import Prompts

PROMPTS: Final = Prompts(__file__)

Step = tuple[float, tuple[int, ...]]
"""Characters of a prompt, and the limits in tokens of the answers that it shows."""

Method = Literal["answer", "explain", "reason", "context", "continue"]

ADDS: Final = {
    "journal": pl.List(pl.String),
    "model": pl.String,
    "sample": pl.Int32,
    "manner": pl.String,
}
_PROMPTS: Final = Path(__file__).parent / "prompts" / "respond"
_WORDS: Final = re.compile(r"\w+")
_SENTENCE_END: Final = re.compile(r"[.!?。！？][\"')\]]*\s+")


def _check(options: SimpleNamespace) -> None:
    if options.n < 1 or not options.models:
        raise UserError("there is nobody to answer", hint="models: [NAME], n: 1 or more")
    if not 0 < options.cut < 1:
        raise UserError(f"cut is {options.cut}", hint="the part of a text that is shown: 0.5")
    unknown = sorted(set(options.explanations) - set(_explanations()))
    if unknown:
        raise UserError(
            f"explanations: there is none called {', '.join(unknown)}",
            hint=f"they are {', '.join(_explanations())}",
        )
    method = options.method
    refuse_idle(
        *(respond, options),
        (method in ("answer", "context"), "the methods answer and context", "system"),
        (method == "explain", "method: explain", "explanations"),
        (method == "context", "method: context", "passages passage_words"),
        (method == "continue", "method: continue", "cut most_documents"),
    )


@stage(
    version=1,
    scope="set",
    reads={"rows": ["messages", "input_start", "origins"]},
    adds=ADDS,
    check=_check,
)
def respond(
    ctx: Context,
    rows: Records | None = None,
    documents: Documents | None = None,
    *,
    models: tuple[LanguageModel, ...],
    method: Method = "answer",
    n: int = 1,
    seed: int = 0,
    system: str | None = None,
    explanations: tuple[str, ...] = (),
    passages: int = 3,
    passage_words: int = 150,
    cut: float = 0.5,
    most_documents: int | None = None,
    temperature: float = 0.7,
    top_p: float = 1.0,
    max_tokens: int = 1024,
    larger: tuple[int, ...] = (),
    source: str = "respond",
) -> Records:
    """New records: n answers of every model to every prompt.

    The prompt is all of a row before its last answer; `parents` is the row (or the
    document), whose licence stays. `select.response` chooses among the answers.
    Adds `journal`, `model` (by its name here), `sample` (0 to n - 1) and `manner`: the
    system prompt's name for `explain`, the guideline for `reason`.

    system: a system prompt of your own for `answer` and `context`; it stays in the row.
    explanations: the names of the system prompts for `explain`, by default all; which
        one a prompt gets is drawn by `seed`, another one for each sample.
    passages, passage_words: so many pieces of `documents` of so many words are shown
        for `context`, the nearest by TF-IDF.
    cut: the part of a document that is shown for `continue`, to the end of a sentence.
    larger: limits in tokens, rising, with which answers that were cut are asked for again.
    most_documents: at most so many are continued, drawn by `seed`.

    Dropped: `no_prompt` (nothing to answer), `not_sampled`, and answers that were cut or
    empty, by the name of what was to be written.
    """
    needed = documents if method == "continue" else rows
    if needed is None or (method == "context" and documents is None):
        edge = "rows" if rows is None and method != "continue" else "documents"
        hint = f"needs: {{{edge}: STAGE}}"
        raise UserError(f"method {method} needs the edge {edge!r}", hint=hint)
    if method == "continue":
        asked = _beginnings(needed, cut, most_documents, seed)
    else:
        asked = _prompts(needed, system)
    if method == "context" and documents is not None:
        _show(asked, documents, passages, passage_words)
    decoding = Decoding(max_tokens, temperature, top_p)
    answers: list[Draft] = []
    for name, model in zip(model_names(models), models, strict=True):
        drafts = [_copy(draft, name, sample) for draft in asked for sample in range(n)]
        ask = partial(
            generate_field, ctx.open(model), decoding=decoding, seed=seed, retry_max_tokens=larger
        )
        _ways(explanations)[method](ask, drafts, seed)
        answers += drafts
    return to_frame(answers, _talk, source, ADDS)


def _ways(explanations: Sequence[str]) -> dict[str, Any]:
    """What each method asks of the model."""

    def explain(ask: GenerateField, drafts: list[Draft], seed: int) -> None:
        names = list(explanations or _explanations())
        for draft in drafts:
            order = random.Random(f"{seed} explain {draft.parents}").sample(names, len(names))
            draft.fields["manner"] = order[draft.number % len(order)]
            text = PROMPTS.render(f"explain/{draft['manner']}")
            draft.fields["before"] = (("system", text), *_without_system(draft["before"]))
        plainly(ask, drafts, seed)

    def reason(ask: GenerateField, drafts: list[Draft], seed: int) -> None:
        guidelines = PROMPTS.render("guidelines").splitlines()
        for draft in drafts:
            order = random.Random(f"{seed} reason {draft.parents}").sample(
                guidelines, len(guidelines)
            )
            guideline = order[draft.number % len(order)]
            draft.fields |= {"manner": guideline, "guideline": guideline}
        for step, into in (("adapted", "adapted"), ("outline", "outline"), ("path", "response")):
            ask(drafts, into, partial(_step, step))

    def plainly(ask: GenerateField, drafts: list[Draft], _: int) -> None:
        ask(drafts, "response", lambda d: d.fields.get("shown", d["before"]))

    return {
        **{"answer": plainly, "context": plainly, "continue": plainly},
        **{"explain": explain, "reason": reason},
    }


def _step(name: str, draft: Draft) -> Prompt:
    """A step of a chain of thought about the last thing that the user said."""
    *history, (_, instruction) = draft["before"]
    text = PROMPTS.render(name, **{**draft.fields, "instruction": instruction})
    return (*history, ("user", text))


def _copy(draft: Draft, model: str, sample: int) -> Draft:
    """A draft for one sample of one model. One that is not alive stays so, and says why."""
    made = draft.child(model=model, sample=sample)
    made.number, made.rejection = sample, draft.rejection
    return made


def _prompts(rows: pl.DataFrame, system: str | None) -> list[Draft]:
    """Each row's turns before its last answer."""
    drafts = []
    columns = rows.select("id", "messages", "input_start", "origins")
    for id_, messages, input_start, origins in columns.iter_rows():
        license = next((origin["license"] for origin in origins or ()), None)
        turns = [(m["role"], m["content"] or "") for m in messages or ()]
        last = max((i for i, (role, _) in enumerate(turns) if role == "user"), default=-1)
        before: tuple[tuple[str, str], ...] = tuple(turns[: last + 1])
        if system is not None:
            before = (("system", system), *_without_system(before))
        draft = Draft((id_,), {"before": before, "input_start": input_start}, license)
        if last < 0 or not turns[last][1].strip():
            draft.reject("no_prompt")
        drafts.append(draft)
    return drafts


def _without_system(turns: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple(turn for turn in turns if turn[0] != "system")


def _beginnings(documents: pl.DataFrame, cut: float, most: int | None, seed: int) -> list[Draft]:
    """The first part of each document, as a prompt; a random few where there are too many."""
    drafts = []
    for id_, text, origins in documents.select("id", "text", "origins").iter_rows():
        license = next((origin["license"] for origin in origins or ()), None)
        beginning = first_part(text or "", cut)
        shown = user(PROMPTS.render("continue", beginning=beginning))
        draft = Draft((id_,), {"before": (("user", beginning),), "shown": shown}, license)
        if not beginning:
            draft.reject("no_prompt")
        drafts.append(draft)
    alive = [draft for draft in drafts if draft.active]
    ranked = sorted(alive, key=lambda d: random.Random(f"{seed} continue {d.parents}").random())
    for draft in ranked[most:] if most is not None else ():
        draft.reject("not_sampled", documents=len(alive))
    return drafts


def first_part(text: str, share: float) -> str:
    """A text up to the end of the sentence that is nearest to this share of it.

    Without such an end inside the text it is cut between words; a text of one word has
    no first part.
    """
    text = text.strip()
    middle = len(text) * share
    ends = [m.end() for m in _SENTENCE_END.finditer(text)] or [
        m.end() for m in re.finditer(r"\s+", text)
    ]
    if not ends:
        return ""
    return text[: min(ends, key=lambda end: abs(end - middle))].strip()


def _show(asked: Sequence[Draft], documents: pl.DataFrame, number: int, words: int) -> None:
    """Put the nearest passages before what each prompt asks; the row stays without them."""
    alive = [draft for draft in asked if draft.active]
    found = nearest(
        [draft["before"][-1][1] for draft in alive],
        [p for text in documents["text"].to_list() for p in _pieces(text or "", words)],
        number,
    )
    for draft, shown in zip(alive, found, strict=True):
        *history, (_, instruction) = draft["before"]
        text = PROMPTS.render("context", passages=shown, instruction=instruction)
        draft.fields["shown"] = (*history, ("user", text))


def _pieces(text: str, words: int) -> list[str]:
    every = text.split()
    return [" ".join(every[i : i + words]) for i in range(0, len(every), words)]


def nearest(queries: Sequence[str], passages: Sequence[str], number: int) -> list[list[str]]:
    """For each query the passages with the highest TF-IDF cosine, best first, none at zero."""
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer

    if not any(map(_WORDS.search, passages)):
        return [[] for _ in queries]
    vectors = TfidfVectorizer(token_pattern=_WORDS.pattern, sublinear_tf=True)
    table_ = vectors.fit_transform(passages)
    found = []
    for row in vectors.transform(queries) if len(queries) else ():
        scores = np.asarray((table_ @ row.T).todense()).ravel()
        best = np.argsort(-scores, kind="stable")[:number]
        found.append([passages[i] for i in best if scores[i] > 0])
    return found


@cache
def _explanations() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in (_PROMPTS / "explain").glob("*.jinja")))


def _talk(draft: Draft) -> RowMessages:
    turns = [*draft["before"]]
    if draft.fields.get("response"):
        turns.append(("assistant", draft["response"]))
    messages: list[Message] = [{"role": role, "content": text} for role, text in turns]
    return messages, draft.fields.get("input_start")
