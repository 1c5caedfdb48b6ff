"""Documents become instructions with answers, by one of ten published methods.

From prose: FANNO, Instruction Pre-Training, Bonito, AgentInstruct, MAmmoTH2, AITP and
Self-Tuning (`self-supervised`, without a model). From code: SelfCodeAlign, WaveCoder and
OSS-Instruct. Each is a module with one group of options that says everything about it;
the union `Method` names them (see `context` for how to add one). What they share is here:
documents are cut into passages, some are sampled, filtered and deduplicated, the method
makes drafts of them, and the drafts become rows.
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Annotated, Any, Final

import polars as pl
from pydantic import Field

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from pipeline.models.base import Decoding, Embedder, LanguageModel
from pipeline.stage import Documents, Records, stage
from pipeline.types import Count, Fraction, NonNegativeFloat, Range
from stages._llm.drafts import Draft, GenerateField, RowMessages, generate_field, to_frame
from stages._llm.rows import task_messages
from stages.generate._decoding import decoding_of
from stages.generate.from_documents.agentinstruct import AgentInstruct
from stages.generate.from_documents.aitp import Aitp
from stages.generate.from_documents.bonito import Bonito
from stages.generate.from_documents.context import DocumentMethod, GenerationContext
from stages.generate.from_documents.fanno import Fanno
from stages.generate.from_documents.instruction_pretraining import InstructionPretraining
from stages.generate.from_documents.mammoth2 import Mammoth2
from stages.generate.from_documents.oss_instruct import OssInstruct
from stages.generate.from_documents.passage_filters import (
    reject_duplicates,
    reject_unusable,
)
from stages.generate.from_documents.passages import sample, split_documents
from stages.generate.from_documents.self_supervised import SelfSupervised
from stages.generate.from_documents.selfcodealign import SelfCodeAlign
from stages.generate.from_documents.wavecoder import WaveCoder

Method = Annotated[
    Fanno
    | InstructionPretraining
    | Bonito
    | AgentInstruct
    | Mammoth2
    | Aitp
    | SelfSupervised
    | SelfCodeAlign
    | WaveCoder
    | OssInstruct,
    Field(discriminator="name"),
]

ADDS: Final = {
    "journal": pl.List(pl.String),
    "task_type": pl.String,
    "skill": pl.String,
    "level": pl.String,
    "round": pl.Int32,
    "tests": pl.String,
}
DEDUP_THRESHOLDS: Final = (0.7, 0.9)
"""Of FANNO's released code."""


def _filters_passages(method: DocumentMethod, filter_passages: bool | None) -> bool:
    return method.filters_passages if filter_passages is None else filter_passages


def _check(options: SimpleNamespace) -> None:
    """Check the models that the method and the filters need.

    Raises:
        OptionError: A model is missing, or would have nothing to do.
    """
    method = options.method
    filters = _filters_passages(method, options.filter_passages)
    if method.uses_model and options.model is None:
        raise OptionError(
            "model",
            f"must be a language model for method {method.name}, got null",
            hint="model: NAME, one of those under models: in the recipe",
        )
    if filters and options.model is None and options.judge is None:
        raise OptionError(
            "filter_passages",
            "must be false without model and judge, got true",
            hint="judge: NAME, one of those under models: in the recipe",
        )
    if options.judge is not None and not (filters or method.uses_judge):
        raise OptionError(
            "judge",
            f"must be null for method {method.name} without filter_passages: nothing is judged",
            hint="leave judge out, or write filter_passages: true",
        )
    if options.judge_max_tokens is not None and not (filters or method.uses_judge):
        raise OptionError(
            "judge_max_tokens",
            f"must be left out for method {method.name} without filter_passages: nothing is judged",
        )
    if options.keep_reasoning and method.answer_field is None:
        raise OptionError(
            "keep_reasoning",
            f"must be left out for method {method.name}",
            why="no completion is the answer alone",
            hint="answer with generate.respond, which has keep_reasoning too",
        )
    if options.embedder is None and options.dedup_thresholds != DEDUP_THRESHOLDS:
        raise OptionError(
            "dedup_thresholds",
            f"must be left out without an embedder, got {list(options.dedup_thresholds)}",
            hint="embedder: NAME, one of those under models: in the recipe",
        )


@stage(
    version=4,
    scope="set",
    adds=ADDS,
    check=_check,
    later=("judge_max_tokens", "keep_reasoning"),
)
def from_documents(
    ctx: Context,
    documents: Documents,
    *,
    method: Method = Fanno(),
    model: LanguageModel | None = None,
    judge: LanguageModel | None = None,
    embedder: Embedder | None = None,
    passage_characters: Range = (200, 3000),
    max_passages: Count | None = None,
    per_document: Count | None = None,
    filter_passages: bool | None = None,
    dedup_thresholds: tuple[Fraction, Fraction] = DEDUP_THRESHOLDS,
    seed: int = 0,
    temperature: NonNegativeFloat | None = None,
    top_p: Fraction | None = None,
    max_tokens: Count | None = None,
    retry_max_tokens: tuple[Count, ...] = (),
    judge_max_tokens: Count | None = None,
    keep_reasoning: bool = False,
    source: str = "from_documents",
) -> Records:
    """New records, and a dropped or failed row for every passage or proposal that became none.

    The column `parents` holds the document, whose license the row keeps. Added columns:
    `journal`; `task_type`, `skill` and `level`, as far as the method has them; `round` (FANNO
    and WaveCoder); `tests`, the test code that the model wrote for its answer (SelfCodeAlign;
    `score.execution` runs it).

    Dropped rows, whatever the method: `passage_too_short`, `passage_too_long`,
    `not_sampled`; `unclear_passage`, `advertisement`, `private_passage`; `same_community`;
    and completions that were cut or unreadable, such as `response_cut` and
    `pairs_unparsed` (judgements: `unreadable`). The groups of options name those of the methods.

    Example:
        ```yaml
        instructions:
          uses: generate.from_documents
          needs: {documents: documents}
          with:
            method: {name: bonito, task_types: [summarization], task_model: true}
            model: bonito
            max_passages: 1000
        ```

    Args:
        documents: The texts.
        method: The published method with its own options.
        model: Writes the rows; every method but `self-supervised` needs it.
        judge: Filters passages, scores questions (`aitp`) and judges rows (`wavecoder`);
            by default the model.
        embedder: Of passages and of FANNO's instructions, to remove near duplicates.
        passage_characters: The smallest and the largest number of characters of a passage;
            `oss-instruct` uses documents uncut.
        max_passages: Size of the random sample of passages; null for all.
        per_document: Largest number of passages of a document in the sample.
        filter_passages: Reject passages that are unclear, advertise something or are
            private; by default only for `fanno`.
        dedup_thresholds: Cosines from which passages, and instructions of `fanno`, are
            near duplicates; with an embedder.
        seed: Of sampling and of requests.
        temperature: By default the method's, as `top_p` and `max_tokens`.
        top_p: Nucleus of sampling.
        max_tokens: Limit of a completion.
        retry_max_tokens: Increasing limits with which cut completions are requested again.
        judge_max_tokens: Limit of a judgement; null: 4 for the questions about passages, 64 for
            the scores of `aitp`, 500 for the verdicts of `wavecoder`.
        keep_reasoning: Whether what the model reasoned before its answer becomes the answer's
            `reasoning`; of methods that have questions answered by themselves: `fanno`,
            `agentinstruct`, `aitp` and `selfcodealign`.
        source: The source of the rows.
    """
    decoding = decoding_of(method.decoding, temperature, top_p, max_tokens)
    context = GenerationContext(
        generate=_generate_field(ctx, model, decoding, seed, retry_max_tokens),
        judge=_generate_field(ctx, judge or model, Decoding(512), seed, retry_max_tokens),
        encode=ctx.open(embedder).encode if embedder else None,
        context_tokens=ctx.open(model).context_tokens if model else None,
        max_tokens=decoding.max_tokens,
        judge_max_tokens=judge_max_tokens,
        dedup_thresholds=dedup_thresholds,
        progress=ctx.progress,
        seed=seed,
    )
    drafts = split_documents(
        *(documents, passage_characters),
        headings=not method.documents_are_code,
        split=method.splits_documents,
    )
    drafts = sample(drafts, seed, max_passages, per_document)
    if _filters_passages(method, filter_passages):
        reject_unusable(context, drafts)
    reject_duplicates(context, drafts)
    reasoning = method.answer_field if keep_reasoning else None
    rows = method.run(context, drafts)
    return to_frame(rows, _messages, source, ADDS, keep_reasoning=reasoning)


def _generate_field(
    ctx: Context,
    model: LanguageModel | None,
    decoding: Decoding,
    seed: int,
    retry_max_tokens: tuple[int, ...],
) -> GenerateField:
    """`generate_field` with what all steps have in common."""

    def missing(*_: Any, **__: Any) -> None:
        raise UserError("model must be a language model for this method, got null")

    if model is None:
        return missing
    common: dict[str, Any] = {"decoding": decoding, "seed": seed}
    return partial(generate_field, ctx.open(model), **common, retry_max_tokens=retry_max_tokens)


def _messages(draft: Draft) -> RowMessages:
    """The messages of a row; of a draft without an instruction, its passage."""
    fields = draft.fields
    if "messages" in fields:
        return fields["messages"], None
    if not fields.get("instruction"):
        return task_messages(fields["passage"])
    return task_messages(fields["instruction"], fields.get("input", ""), fields.get("response", ""))
