"""Stages that use a language model, one that creates rows and one that annotates them."""

from __future__ import annotations

from typing import Any

import polars as pl

from pipeline.context import Context
from pipeline.models import Decoding, LanguageModel, Request
from pipeline.stage import Records, stage
from schemas.records import RECORD_COLUMNS
from tests.support.toys import VERDICT, conversation

JOURNAL = {"journal": pl.List(pl.String)}


def requests(rows: pl.DataFrame, tokens: int, samples: int = 1) -> list[Request]:
    decoding = Decoding(max_tokens=tokens, temperature=0.8)
    questions = [messages[0]["content"] for messages in rows["messages"].to_list()]
    return [
        Request((("user", text),), decoding, sample=i) for text in questions for i in range(samples)
    ]


@stage(version=1, scope="set", reads=["messages"], adds=JOURNAL)
def respond(
    ctx: Context, rows: Records, *, model: LanguageModel, tokens: int = 4, samples: int = 1
) -> Records:
    """New conversations: the model's answers to the first turns."""
    questions = requests(rows, tokens, samples)
    answers = ctx.open(model).generate(questions)
    output: list[dict[str, Any]] = []
    for i, (request, answer) in enumerate(zip(questions, answers, strict=True)):
        row = conversation(request.prompt[0][1], f"{i} {answer.text}", "respond", i)
        output.append({**row, "journal": [answer.key], "error": answer.error})
    return pl.DataFrame(output, schema={**RECORD_COLUMNS, **JOURNAL, **VERDICT})


@stage(version=1, scope="row", reads=["messages"], adds={"words": pl.Int32})
def rate(ctx: Context, rows: Records, *, model: LanguageModel, tokens: int = 4) -> pl.DataFrame:
    """How many words the model answers with."""
    answers = ctx.open(model).generate(requests(rows, tokens))
    return pl.DataFrame(
        {
            "words": [len(answer.text.split()) for answer in answers],
            "error": pl.Series([answer.error for answer in answers], dtype=pl.String),
        },
        schema_overrides={"words": pl.Int32},
    )


@stage(version=1, scope="set", reads=["messages"], adds=JOURNAL)
def some(ctx: Context, rows: Records, *, model: LanguageModel, most: int = 10) -> Records:
    """As `respond`, for the first rows alone."""
    return respond(ctx, rows.head(most), model=model)
