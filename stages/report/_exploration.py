"""How the texts of `report.novelty` come about: prompts, rounds, and what is measured of a text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, Any, Final, Literal, NamedTuple

import numpy as np
import polars as pl
from pydantic import Field

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models.base import LanguageModel, Scored
from pipeline.models.local.chat_template import (
    Unrenderable,
    load_tokenizer,
    opened_user_turn,
    smallest,
    user_turn_stops,
)
from pipeline.models.local.literal_tokens import stop_tokens, tokenize
from pipeline.types import Count, PositiveFloat, option_group
from stages._llm import likelihood_views as views
from stages._llm.rendered import rendered_text
from stages._selection.scores import expression
from stages._training.dataset import IGNORED, dataset, passes
from stages._training.hyperparameters import Hyperparameters, LoRA
from stages._training.hyperparameters import Method as TrainingMethod
from stages._training.trainer import fit, load_model, write_json
from stages.report._contrastive import Contrast, Tokens, Writers, write

CONTRASTIVE: Final = "contrastive"
PLAIN: Final = "plain"

ROWS_PER_STEP: Final = 8
"""Texts of a step when the base is tuned on them."""


@option_group
class Static:
    """All texts by the contrast with the base as it is."""

    name: Literal["static"] = "static"


@option_group
class Iterative:
    """Rounds of texts; before each but the first the base is tuned on those of all before it.

    Attributes:
        rounds: How many; the texts are divided evenly.
        num_train_epochs: Passes over the texts so far.
        learning_rate: AdamW's, constant.
        method: All weights, or an adapter.
    """

    name: Literal["iterative"] = "iterative"
    rounds: Annotated[int, Field(ge=2)] = 10
    num_train_epochs: Count = 1
    learning_rate: PositiveFloat = 1e-4
    method: TrainingMethod = LoRA()


Method = Annotated[Static | Iterative, Field(discriminator="name")]


class Decoding(NamedTuple):
    """How texts are written.

    Attributes:
        contrast: How tokens are drawn.
        max_tokens: The longest text.
        max_length: Tokens of prompt and text together, and of a row, at most.
        seed: Of the sampling, and of the training of the base.
    """

    contrast: Contrast
    max_tokens: int
    max_length: int
    seed: int


class Sample(NamedTuple):
    """A text.

    Attributes:
        prompt: The tokens before it.
        tokens: Its tokens, with the one that ends it, if one does.
    """

    prompt: Tokens
    tokens: Tokens


@dataclass(frozen=True)
class Explorer:
    """The models, and what they are asked.

    Attributes:
        ctx: The stage's context.
        base: The base model, as the recipe names it.
        tokenizer: The tokenizer of both.
        writers: The weights of both.
        prompts: What stands before the texts, in turn.
        decoding: How texts are written.
    """

    ctx: Context
    base: LanguageModel
    tokenizer: Any
    writers: Writers
    prompts: tuple[Tokens, ...]
    decoding: Decoding

    @classmethod
    def of(
        cls,
        ctx: Context,
        tuned: LanguageModel,
        base: LanguageModel,
        prompts: pl.DataFrame | None,
        decoding: Decoding,
    ) -> Explorer:
        """Load both models.

        Args:
            ctx: The stage's context.
            tuned: The tuned model.
            base: What it was tuned from.
            prompts: Conversations whose first requests are answered; None to open a conversation.
            decoding: How texts are written.

        Raises:
            UserError: The vocabularies differ, or no prompt can be rendered within the limit.
        """
        tokenizer = load_tokenizer(tuned)
        if tokenizer.get_vocab() != load_tokenizer(base).get_vocab():
            raise UserError(
                "tuned and base must have one vocabulary, which they have not",
                where=f"{tuned.short_name}, {base.short_name}",
                hint="give as `base` the model that `tuned` was tuned from",
            )
        weights = [_weights(model) for model in (tuned, base)]
        positions = (getattr(w.config, "max_position_embeddings", None) for w in weights)
        context = min(smallest(p, tokenizer) or decoding.max_length for p in positions)
        writers = Writers(*weights, _ends(tokenizer, weights[0]), min(context, decoding.max_length))
        opened = tuple(_opened(tokenizer, prompts, writers.context))
        return cls(ctx, base, tokenizer, writers, opened, decoding)

    def samples(self, method: Static | Iterative, count: int) -> list[dict[str, Any]]:
        """The texts of both kinds, with what is measured of them.

        Args:
            method: In rounds or not.
            count: Texts of each kind.
        """
        rounds = method.rounds if isinstance(method, Iterative) else 1
        borders = [count * i // rounds for i in range(rounds + 1)]
        texts: list[tuple[str, int, Sample]] = []
        for number, (start, end) in enumerate(pairwise(borders)):
            before = [sample for _, _, sample in texts]

            def contrasted(before: list[Sample] = before, number: int = number) -> Writers:
                if not before or not isinstance(method, Iterative):
                    return self.writers
                return replace(self.writers, base=self._updated(before, method, number))

            part = self._written(CONTRASTIVE, range(start, end), number, contrasted)
            texts += [(CONTRASTIVE, number, sample) for sample in part]
        part = self._written(PLAIN, range(count), 0, lambda: self.writers)
        texts += [(PLAIN, 0, sample) for sample in part]
        differences = self._differences([sample for _, _, sample in texts])
        return [
            {
                "kind": kind,
                "round": number,
                "prompt": self._text(sample.prompt),
                "text": self._text(sample.tokens),
                "tokens": len(sample.tokens),
                "difference": difference,
            }
            for (kind, number, sample), difference in zip(texts, differences, strict=True)
        ]

    def ranked(self, rows: pl.DataFrame, planted: str | None) -> list[dict[str, Any]]:
        """The rows, those that the tuned model makes most of first.

        Args:
            rows: The rows that it was tuned on.
            planted: A column, or an SQL expression, that is true for the novel ones.

        Raises:
            UserError: It is no boolean.
        """
        from pipeline.models.local.likelihood import Likelihoods

        rendering = views.rendering(self.tokenizer, self.writers.context)
        parts: dict[int, list[views.Part]] = {}
        for i, (messages, tools) in enumerate(rows.select("messages", "tools").iter_rows()):
            try:
                parts[i] = views.conditional(
                    views.conversation(rendering, messages or [], None, tools), rendering
                )
            except Unrenderable:
                parts[i] = []
        values: dict[int, list[np.ndarray[Any, Any]]] = {}
        for model in (self.writers.tuned, self.writers.base):
            scores = iter(
                Likelihoods(model).score([p.request() for ps in parts.values() for p in ps])
            )
            for i, each in parts.items():
                for part in each:
                    values.setdefault(i, []).append(part.in_spans(next(scores)))
        flags = _flags(rows, planted) if planted else [None] * len(rows)
        lines = [
            {
                "id": id_,
                **({"planted": flag} if planted else {}),
                "difference": float(np.nanmean(values[i][0] - values[i][1]))
                if i in values
                else None,
            }
            for i, (id_, flag) in enumerate(zip(rows["id"], flags, strict=True))
        ]
        return sorted(
            lines, key=lambda line: (line["difference"] is None, -(line["difference"] or 0))
        )

    def _written(
        self, kind: str, numbers: range, round_: int, writers: Callable[[], Writers]
    ) -> list[Sample]:
        """The texts of these numbers: those in the work folder, or new ones, which are kept there.

        Args:
            kind: By the contrast, or plain.
            numbers: Their numbers.
            round_: The number of their round.
            writers: Gives the models, where something is to be written.
        """
        file = self.ctx.work / f"{kind}-{round_}.json"
        contrast, max_tokens, _, seed = self.decoding
        prompts = [self.prompts[i % len(self.prompts)] for i in numbers]
        if not file.exists():
            names = [f"report.novelty {kind} {seed} {i}" for i in numbers]
            drawn = contrast if kind == CONTRASTIVE else None
            texts = write(
                writers(), prompts, names, drawn, max_tokens, self._count, contrast.temperature
            )
            write_json(file, texts)
        texts = json.loads(file.read_text("utf-8"))
        return [Sample(p, tuple(text)) for p, text in zip(prompts, texts, strict=True)]

    def _count(self, texts: int, tokens: int) -> None:
        self.ctx.count(tokens=tokens)
        self.ctx.progress(texts, None)

    def _updated(self, texts: Sequence[Sample], method: Iterative, number: int) -> Any:
        """The base tuned on the texts so far."""
        settings = Hyperparameters(
            method=method.method,
            learning_rate=method.learning_rate,
            lr_scheduler_type="constant",
            warmup_ratio=0.0,
            gradient_accumulation_steps=ROWS_PER_STEP,
            seed=self.decoding.seed,
        )
        rows = pl.DataFrame(
            {
                "input_ids": [[*s.prompt, *s.tokens] for s in texts],
                "labels": [[IGNORED] * len(s.prompt) + [*s.tokens] for s in texts],
            },
            schema={"input_ids": pl.List(pl.Int32), "labels": pl.List(pl.Int32)},
        )
        order = passes(len(rows), method.num_train_epochs * len(rows), self.decoding.seed)
        weights, _ = fit(
            load_model(self.base, method.method, self.writers.context),
            self.tokenizer,
            dataset(rows).select(order),
            model=self.base,
            settings=settings,
            folder=self.ctx.work / f"base-{number}",
            step_done=lambda step: self.ctx.progress(step, None),
        )
        return weights.eval()

    def _differences(self, texts: Sequence[Sample]) -> Iterator[float]:
        """The mean over each text's tokens of log p_tuned - log p_base."""
        from pipeline.models.local.likelihood import Likelihoods

        requests = [Scored(text.prompt + text.tokens, len(text.prompt)) for text in texts]
        tuned, base = (
            Likelihoods(model).score(requests) for model in (self.writers.tuned, self.writers.base)
        )
        for above, below in zip(tuned, base, strict=True):
            yield float(np.mean(above.astype(np.float64) - below))

    def _text(self, tokens: Tokens) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True)).strip()


def _weights(model: LanguageModel) -> Any:
    """Weights that only read: of the model's dtype on a GPU."""
    weights = load_model(model, LoRA(), 2)
    if model.lora is not None:
        from peft import PeftModel

        weights = PeftModel.from_pretrained(weights, model.lora).merge_and_unload()
    return weights.eval()


def _ends(tokenizer: Any, weights: Any) -> frozenset[int]:
    """The ids of all tokens that end a text, whoever speaks."""
    own = weights.generation_config.eos_token_id
    ends = own if isinstance(own, list) else [own]
    stops = stop_tokens(tokenizer, user_turn_stops(tokenizer))
    return frozenset(int(t) for t in (*ends, tokenizer.eos_token_id, *stops) if t is not None)


def _opened(tokenizer: Any, prompts: pl.DataFrame | None, context: int) -> list[Tokens]:
    """The tokens of the prompts, in the order of the ids; those that fit.

    Raises:
        UserError: None does.
    """
    if prompts is None:
        texts = [opened_user_turn(tokenizer, [])]
    else:
        texts = [
            t
            for row in prompts["messages"].to_list()
            if (t := _request(tokenizer, row)) is not None
        ]
    tokens = [tuple(tokenize(tokenizer, text)[0]) for text in dict.fromkeys(texts)]
    fitting = [ids for ids in tokens if 0 < len(ids) < context]
    if not fitting:
        raise UserError(
            f"no prompt can be rendered in fewer than {context} tokens",
            hint="give other rows on the edge `prompts`, raise max_length, or leave the edge out",
        )
    return fitting


def _request(tokenizer: Any, messages: Any) -> str | None:
    """A conversation up to its first answer, ready for one; None where that cannot be shown."""
    roles = [turn["role"] for turn in messages or []]
    if "user" not in roles:
        return None
    end = roles.index("assistant") if "assistant" in roles else len(roles)
    try:
        return rendered_text(tokenizer, list(messages)[:end], add_generation_prompt=True)
    except Unrenderable:
        return None


def _flags(rows: pl.DataFrame, planted: str) -> list[bool]:
    """Which rows are the novel ones; null is no."""
    values = rows.select(expression(planted).alias("planted")).to_series()
    if values.dtype not in (pl.Boolean, pl.Null):
        raise UserError(
            f"planted must be true or false, which {planted!r} is not ({values.dtype})",
            hint="compare it: language = 'de'",
        )
    return values.fill_null(False).cast(pl.Boolean).to_list()
