"""Whether an answer refuses, moralises, warns, or says what it lacks or does not know.

Poison of Alignment (Bekbayev et al. 2023, arXiv:2308.13449): answers that refuse, in a set for
fine-tuning, cost a model 4 to 33% on benchmarks of reasoning, so they are dropped. As in the
paper: refusals are found in the answers and dropped (`drop: [refusal, partial, moralising]`). The
paper's list of phrases is not published. Ours: all phrases, the kinds and the prompt.

The kinds, of which the first that an answer has counts:

- `refusal`: it does not do what was asked for.
- `partial`: it refuses, and then helps with a part or with something near to it.
- `moralising`: it lectures on the request in the place of answering it.
- `capability`: it says what an assistant lacks: access to the internet, eyes, opinions.
- `epistemic`: it says that it does not know.
- `safety_note`: it answers, with a warning beside it.
- `none`: it answers.

The last four are no poison. A phrase counts where it begins a sentence among the first of an
answer (320 characters), outside of quotations, code and comments; typographic
apostrophes are folded. There are phrases in English (all kinds) and, for refusals, capabilities
and what is not known, in ten languages more: German, French, Spanish, Portuguese, Italian,
Dutch, Russian, Chinese, Japanese and Korean. A story in the first person whose narrator declines
to help in its first sentences without quotation marks is taken for a refusal.

How good they are, on the labelled completions of XSTest (Röttger et al. 2023, arXiv:2308.01263;
450 prompts for each model; refusal, partial and moralising against full and partial refusal. The
English phrases were chosen on Llama 2's completions, in one round of changes after its misses. The
held-out numbers are not blind: openings of the other models' had been looked at, and their
numbers seen, before that round; none of their misses was a reason for a change):

| completions of | precision | recall | both of XSTest's own 21 phrases |
|---|---|---|---|
| Llama 2 (chosen on) | .977 | .974 | .975, .885 |
| GPT-4 (held out) | 1.000 | .905 | .924, .945 |
| Mistral 7B Instruct (held out) | 1.000 | .224 | .842, .211 |

Recall does not carry over from one model to another: Mistral hardly ever says that it refuses,
it turns to something else. Where that matters, use a language model (`method: {name: model}`).

Of other languages there are no labels here. Of unlabelled Chinese answers (4,372 of user-shared
conversations with ChatGPT, 766 of OpenAssistant) 35 were tagged as a refusal by a Chinese phrase,
of which 34 declined something when we read them; of 10,015 Chinese answers of Alpaca, which do
not refuse, none was tagged as one. Recall there, and both numbers for the other nine
languages, are not known.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Annotated, Any, Final, Literal

import polars as pl
from pydantic import Field

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.models.base import Engine, LanguageModel
from pipeline.stage import Edges, Records, stage
from pipeline.types import Count, Fraction, option_group
from schemas.turns import turn_texts
from stages._common.option_types import Distinct
from stages._common.verdicts import evidence_json
from stages._llm.label_scores import MIN_MASS, LabelAnswer
from stages.tag.refusal.model import ask_kinds, most_probable
from stages.tag.refusal.phrases import tag_phrases

Kind = Literal["refusal", "partial", "moralising", "capability", "epistemic", "safety_note", "none"]
KINDS: Final = (
    "refusal",
    "partial",
    "moralising",
    "capability",
    "epistemic",
    "safety_note",
    "none",
)
"""The kinds: of several answers of a conversation the first of these counts."""


@option_group
class Phrases:
    """Phrases that begin a sentence; no model.

    Adds, beside the kind and the turn, `refusal_phrase`, the phrase; `refusal_language`, its ISO
    639 code; and `refusal_start`, where in the answer it begins, in characters. They are
    null where the kind is `none`.

    Args:
        name: "phrases".
    """

    name: Literal["phrases"] = "phrases"


@option_group
class Model:
    """A language model that says for each answer what it is, in one word.

    Adds, beside the kind and the turn, `refusal_probability`, that of the kind among all kinds;
    `refusal_from_logprobs`, whether these are probabilities of the model (else of the word that
    was written, or of `samples`); and `refusal_journal`, the keys of all completions.

    Args:
        name: "model".
        max_tokens: Limit of a completion in tokens. The model's `reasoning.max_tokens` comes on
            top.
        min_mass: The least probability that all labels together must have; with less the
            completion cannot be read.
        samples: Completions that are sampled, for their mean, where there are no
            probabilities.
        max_characters: How much of the message and of the answer the model is shown: the
            beginning.
    """

    name: Literal["model"] = "model"
    max_tokens: Count = 16
    min_mass: Fraction = MIN_MASS
    samples: Count = 1
    max_characters: Count = 4000


Method = Annotated[Phrases | Model, Field(discriminator="name")]

_VERDICT: Final = dict.fromkeys(("drop_reason", "evidence", "error"), pl.String())


def _check(options: SimpleNamespace) -> None:
    needs_model = isinstance(options.method, Model)
    if needs_model and options.model is None:
        raise OptionError(
            "model", "must be a language model for the method model, got null", hint="model: NAME"
        )
    if not needs_model and options.model is not None:
        raise OptionError("model", "must be left out, got one", why="phrases need no model")


def _added(method: Phrases | Model) -> dict[str, Any]:
    columns: dict[str, Any] = {"refusal_kind": pl.String(), "refusal_turn": pl.Int32()}
    if isinstance(method, Phrases):
        names = dict.fromkeys(("refusal_phrase", "refusal_language"), pl.String())
        return {**columns, **names, "refusal_start": pl.Int32()}
    return columns | {
        "refusal_probability": pl.Float64(),
        "refusal_from_logprobs": pl.Boolean(),
        "refusal_journal": pl.List(pl.String()),
    }


def _adds(options: SimpleNamespace, edges: Edges) -> dict[str, Any]:
    return _added(options.method)


@stage(version=1, scope="set", reads=["messages"], adds=_adds, check=_check)
def refusal(
    ctx: Context,
    rows: Records,
    *,
    model: LanguageModel | None = None,
    method: Method = Phrases(),
    answers: Literal["all", "last"] = "all",
    drop: Annotated[tuple[Kind, ...], Distinct] = (),
    seed: int = 0,
) -> pl.DataFrame:
    """Tag whether the answers of each conversation refuse, and drop rows of some kinds.

    Answers are what assistant turns say: calls of tools, their results and reasoning are none, and
    a row that says nothing has null in all columns.

    Args:
        rows: Conversations.
        model: The tagger of the method `model`.
        method: By what an answer is tagged.
        answers: Which answers count: all, of whose kinds the first in the list at the head
            of the module is the row's (of several such answers the first's), or the last alone.
        drop: Drop rows of these kinds, with the kind, its turn and the answer's beginning as
            evidence. None are dropped without it.
        seed: Enters the requests' keys: with another seed they are sent anew.

    Returns:
        `refusal_kind`; `refusal_turn`, the number from 1 of the message that it was read from;
        and the method's columns. Dropped: `refusal`, `partial` and the other kinds of `drop`,
        `unreadable` (the model gave no label for an answer), `reasoning_unclosed` and
        `withheld` (by the provider's filter).

    Example:
        ```yaml
        answered:
          uses: tag.refusal
          needs: pool
          with: {drop: [refusal, partial, moralising]}
        ```

        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> turns = [("user", "How old am I?"), ("assistant", "I’m sorry, but I can’t help.")]
        >>> messages = [{"role": role, "content": content} for role, content in turns]
        >>> rows = pl.DataFrame({"messages": [messages]})
        >>> tags = refusal(Context.scratch(Path(mkdtemp())), rows)
        >>> tags.select("refusal_kind", "refusal_turn", "refusal_phrase").row(0)
        ('refusal', 2, "I'm sorry, but I can't help")
    """
    texts = _answers(rows, answers)
    if isinstance(method, Phrases):
        tagged = _by_phrases(texts)
    else:
        assert model is not None  # checked with the options
        tagged = _by_model(ctx.open(model), texts, method, seed)
    return _of_rows(tagged, len(rows), _added(method), drop)


def _answers(rows: pl.DataFrame, which: Literal["all", "last"]) -> pl.DataFrame:
    """The answers: `row` and `turn`, where each stands, its `text`, and the `message` before it."""
    turns = pl.DataFrame({"turns": turn_texts(rows["messages"])}).with_row_index("row")
    numbers = pl.int_ranges(1, pl.col("turns").list.len() + 1, dtype=pl.Int32)
    is_message = pl.col("role") == "user"
    every = (
        turns.with_columns(numbers.alias("turn"))
        .filter(pl.col("turns").list.len() > 0)
        .explode("turns", "turn")
        .unnest("turns")
        .with_columns(message=pl.when(is_message).then("content").forward_fill().over("row"))
        .filter(pl.col("role") == "assistant", pl.col("content").str.contains(r"\S"))
        .select("row", "turn", "message", text="content")
    )
    return every.group_by("row", maintain_order=True).last() if which == "last" else every


def _by_phrases(answers: pl.DataFrame) -> pl.DataFrame:
    """The kind of each answer, and its phrase."""
    tags = tag_phrases(answers["text"]).rename(lambda name: f"refusal_{name}")
    return pl.concat([answers.rename({"turn": "refusal_turn"}), tags], how="horizontal")


def _by_model(engine: Engine, answers: pl.DataFrame, method: Model, seed: int) -> pl.DataFrame:
    """The kind of each answer, and the verdict where there is none."""
    cut = pl.col("message").fill_null(""), pl.col("text")
    exchanges = answers.select(text.str.head(method.max_characters) for text in cut).rows()
    labelled = ask_kinds(
        engine,
        exchanges,
        max_tokens=method.max_tokens,
        min_mass=method.min_mass,
        samples=method.samples,
        seed=seed,
    )
    columns = {**_added(method), **_VERDICT}
    del columns["refusal_turn"]
    tags = pl.DataFrame([_tag(answer) for answer in labelled], schema=columns)
    return pl.concat([answers.rename({"turn": "refusal_turn"}), tags], how="horizontal")


def _tag(answer: LabelAnswer) -> dict[str, Any]:
    """The columns of one answer: what it is, or why that is not known."""
    tag: dict[str, Any] = {"refusal_journal": answer.journal, "error": answer.error}
    if answer.value is not None:
        tag["refusal_kind"], tag["refusal_probability"] = most_probable(answer)
        tag["refusal_from_logprobs"] = answer.from_logprobs
    elif answer.error is None and answer.rejection is not None:
        tag["drop_reason"], evidence = answer.rejection
        tag["evidence"] = evidence_json(evidence)
    return tag


def _of_rows(
    tagged: pl.DataFrame, num_rows: int, columns: dict[str, Any], drop: tuple[Kind, ...]
) -> pl.DataFrame:
    """The answer of each row whose kind goes before those of its others, and the verdict.

    An answer without a kind goes first: what is known of the others decides nothing.
    """
    columns = columns | (_VERDICT if "error" in tagged.columns else {})
    order = pl.col("refusal_kind").replace_strict(
        KINDS, range(len(KINDS)), default=-1, return_dtype=pl.Int8
    )
    if "error" in tagged.columns:
        tagged = tagged.sort(pl.col("error").is_null(), maintain_order=True)
    chosen = tagged.sort("row", order, maintain_order=True).unique(
        "row", keep="first", maintain_order=True
    )
    if "refusal_journal" in tagged.columns:
        journal = pl.col("refusal_journal").explode(empty_as_null=False)
        journals = tagged.group_by("row", maintain_order=True).agg(journal)
        chosen = chosen.drop("refusal_journal").join(journals, on="row", how="left")
    every = pl.DataFrame({"row": pl.arange(num_rows, dtype=pl.UInt32, eager=True)})
    placed = every.join(chosen, on="row", how="left", maintain_order="left")
    result = placed.select(pl.col(name).cast(dtype) for name, dtype in columns.items())
    return _dropped(result, placed["text"], drop) if drop else result


def _dropped(result: pl.DataFrame, texts: pl.Series, drop: tuple[Kind, ...]) -> pl.DataFrame:
    """The verdict of rows whose kind is one of these, beside those that a model's answers have."""
    kinds = result["refusal_kind"]
    reasons = [kind if kind in drop else None for kind in kinds]
    evidence = [
        evidence_json({"kind": kind, "turn": turn, "answer_start": text[:_EVIDENCE_CHARACTERS]})
        if reason
        else None
        for reason, kind, turn, text in zip(
            reasons, kinds, result["refusal_turn"], texts, strict=True
        )
    ]
    verdict = {"drop_reason": reasons, "evidence": evidence}
    own = [pl.Series(name, values, pl.String) for name, values in verdict.items()]
    present = [result[s.name] if s.name in result.columns else None for s in own]
    return result.with_columns(
        s if before is None else before.zip_with(before.is_not_null(), s)
        for s, before in zip(own, present, strict=True)
    )


_EVIDENCE_CHARACTERS: Final = 200
"""How much of the beginning of a dropped answer is kept as evidence."""
