"""Likelihood scores: what a causal language model finds easy, hard or helped by the instruction.

Let L(A|Q) be the mean negative log-likelihood of the answer's tokens (natural
logarithm, nats per token) after the prompt, L(A) that of the same tokens without
it, and PPL = exp(L). A row with several assistant turns counts all their tokens
as one answer: each turn after all that precedes it in L(A|Q), on its own in L(A).
The answer's tokens are those that a training on the answers alone would learn (see
`stages/_llm/likelihood_views.py`), and L(A) shows them behind nothing but the header
that opens an answer: so both count the same tokens, the first one included.

- `loss`: L(A|Q). `ppl`: exp(L(A|Q)). GRAPE (Zhang et al. 2025, arXiv:2502.04194) keeps of
  several answers to a prompt the one that the student finds most likely: the smallest `loss`,
  by `select.response`.
- `ifd`: instruction-following difficulty, PPL(A|Q) / PPL(A), as the paper defines it
  (Li et al. 2023, arXiv:2308.12032). Near 1 the prompt does not help, above 1 it
  misleads. The paper's formula has no header in front of A; its code has one
  ("### Response:"), and so has this: without it a chat model is mostly surprised
  that there is an answer at all, and hardly any row reaches 1.
- `ifd_loss`: L(A|Q) / L(A), which is what the authors' code computes. A ratio of losses
  is not monotone in the ratio of perplexities: the two forms order rows differently.
- `ifd_superfilter`: PPL(A|Q) / PPL(A) as the code of Superfiltering computes it (Li et
  al. 2024, arXiv:2402.00530): no template (instruction, input and answer, one a line),
  only the last answer, no end mark, and these peculiarities. In L(A) nothing stands in
  front unless the tokenizer adds it, so the first token counts in L(A|Q) alone. What
  exceeds `max_length` is cut: prompt and answer there, the answer alone at max_length -
  prompt + 1. The answer begins where the prompt, tokenized alone, ends. One difference: what
  the code scores 0 after an exception is null here.
- `ic_ifd`: L(A|Q) / (L(Q) L(A)), IFD corrected for how surprising the instruction itself is
  (Hua et al. 2024, "Smaller Language Models Are Better Instruction Evolvers",
  arXiv:2412.11231). As in the authors' code (HypherX/Evolution-Analysis): mean losses and not
  perplexities, no template (instruction, input and answer, one a line), only the last answer,
  and whatever the tokenizer puts in front of a text. Ours: the line break before the answer
  belongs to the question (in the code it is scored with the answer), and texts are cut as in
  `ifd_superfilter`, where the code cuts nothing.
- `reversed_ifd`: PPL(Q|A) / PPL(Q), how much the answer says about its instruction (Li et al.
  2024, arXiv:2402.10110): the last exchange with question and answer swapped. Ours: nothing asks
  for the instruction, as for a model that `train.sft` trained with `reverse`; `rewrite.revise`
  has the method with words that do.
- `context_gap`: L(A|Q without its input) - L(A|Q), how much the separate input helps; null for
  rows without one. Ours; what Wang et al. measure is attention, see `score.context`.

Two moments of one training, `model` before it and `checkpoints` in their order:

- `learning_percentage`: (P0 - P1) / (P0 - Pn) of the perplexities before the training, after the
  first checkpoint and after the last one, 0 where the last two differences are 0 (Mekala et al.
  2024, "Smaller Language Models are capable of selecting Instruction-Tuning Training Data for
  Larger Language Models", arXiv:2402.10430; dheeraj7596/Small2Large). Low: learned late, hard,
  kept. As in the authors' code: perplexities, and not losses; they rank otherwise.
  `learning_percentage_approx`: (P0 - P1) / P0, which needs one epoch. Both prefer long answers
  (a rank correlation of 0.86 with the words, in the published numbers): compare with the longest
  rows before the method is credited.
- `learnability`: (L0 - Ln) / L0, highest first (Zhou et al. 2023, "LoBaSS: Gauging Learnability in
  Supervised Fine-tuning Data", arXiv:2310.13008, later DavIR; no code). Ours: null below
  `min_answer_tokens`, and where Ln is 0. A reference that knows the rows by heart makes short
  answers win: train it on the whole pool for one epoch; a warning says where half of the rows lost
  half of their loss. `reducible_loss`: L0 - Ln, without the division (Mindermann et al. 2022,
  arXiv:2206.07137), which prefers long ones.

Others:

- `ds_weight`: how far a row lies from a few rows for validation (Jiang et al. 2024, "Importance
  Weighting Can Help Large Language Models Self-Improve", arXiv:2408.09849; rubickkcibur/IWSI):
  max(w, min(1/w, 5)) for w = clamp(V / L, 0, 2), V the mean loss of the rows on the edge `valid`
  and L that of the row; 1 is nearest, low is kept. As in the authors' code: the loss of the whole
  conversation, question included, and w = 0 for a loss of 0. Ours: chat templates.
- `degradation`: the Jensen-Shannon divergence (nats, 0 to ln 2) between the next-token
  distributions of `model` and of `pruned`, on the instruction without template and input (PASER, He
  et al. 2025, arXiv:2502.12594; BokwaiHo/PASER). Ours: its mean over the tokens, where the code
  sums, which prefers long instructions. `ies`: that divided by log((the instruction's tokens + the
  answer's characters)^2), the individual efficiency score by which a cluster's rows rank.

Null means not scored, never a bad score: no answer or an empty one, no token with a
likelihood, or, except in `ifd_superfilter` and `ic_ifd`, a conversation longer than `max_length` or
than the model's context (nothing is cut; the authors' code drops such rows). `degradation` is of
the instruction alone: a row without an answer has one, and what exceeds `max_length` is cut. A
row that the chat template refuses, or whose answer it rewrites, is a failed row, and so is one
that a model gives NaN for.

Dropping what is above 1 or keeping the highest is for a later stage to decide.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Annotated, Any, Final

import numpy as np
import polars as pl
from pydantic import Field

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.models import LanguageModel
from pipeline.stage import Columns, Edges, Records, stage
from pipeline.types import Count, NonEmpty
from schemas.turns import View
from stages._common.edges import require_input
from stages._common.option_types import Distinct
from stages._llm import likelihood_views as views
from stages._llm.likelihood_views import mean_loss
from stages.score.loss.formulas import FORMULAS, Formula, Pass
from stages.score.loss.passes import SOURCE, Measured, Models, Rows, measured, score

_log = logging.getLogger(__name__)

MIN_ANSWER_TOKENS: Final = 10
"""Tokens of an answer whose learnability says something; the number is ours."""

LEARNED: Final = 0.5
"""The part of its loss that half of the rows must have lost for a warning; the number is ours."""

ENOUGH: Final = 20
"""Rows from which on that is said."""


def _adds(options: SimpleNamespace, edges: Edges) -> Columns:
    weighed = "ds_weight" in options.formulas
    name = "ds_weight" if weighed else f"formulas: {', '.join(options.formulas)}"
    if edges:
        require_input(edges, "valid", name, connected=weighed)
    losses = {"token_losses": pl.List(pl.Float32)} if options.token_losses else {}
    return {**dict.fromkeys(options.formulas, pl.Float32), **losses, "tokens": pl.Int32}


def _check(options: SimpleNamespace) -> None:
    formulas = options.formulas
    needed = max(FORMULAS[name].checkpoints for name in formulas)
    if len(options.checkpoints) < needed:
        names = " and ".join(n for n in formulas if FORMULAS[n].checkpoints > 0)
        raise OptionError(
            "checkpoints",
            f"must be at least {needed} for {names}, got {len(options.checkpoints)}",
            hint="models: {early: {from: TRAINING, checkpoint: epoch-1}}, checkpoints: [early]",
        )
    if options.checkpoints and not needed:
        raise OptionError("checkpoints", f"must be left out with {', '.join(formulas)}")
    pruned = any("divergence" in FORMULAS[name].compares for name in formulas)
    if pruned != (options.pruned is not None):
        what = "must be given with" if pruned else "must be left out with"
        raise OptionError("pruned", f"{what} {', '.join(formulas)}")
    if options.min_answer_tokens != MIN_ANSWER_TOKENS and "learnability" not in formulas:
        raise OptionError("min_answer_tokens", "must be left out without learnability")


_LATER: Final = ("valid", "checkpoints", "pruned", "min_answer_tokens", "token_losses")


@stage(
    version=3,
    scope="row",
    reads={"rows": SOURCE, "valid": SOURCE},
    adds=_adds,
    check=_check,
    later=_LATER,
)
def loss(
    ctx: Context,
    rows: Records,
    valid: Records | None = None,
    *,
    model: LanguageModel,
    formulas: Annotated[tuple[Formula, ...], NonEmpty, Distinct] = ("ifd",),
    max_length: Annotated[int, Field(ge=2)] = 2048,
    view: View = "all",
    checkpoints: tuple[LanguageModel, ...] = (),
    pruned: LanguageModel | None = None,
    min_answer_tokens: Count = MIN_ANSWER_TOKENS,
    token_losses: bool = False,
) -> pl.DataFrame:
    """Score every row's answers with a causal language model.

    Args:
        rows: Conversations.
        valid: A few rows of the target, for `ds_weight`.
        model: The model whose likelihoods are measured.
        formulas: The columns to add; they are defined at the head of the module.
        max_length: Tokens. Rows that are longer, as the chat template renders them, stay
            null; so do rows that are longer than the model's context.
        view: What of an answer is scored, as the chat template renders it: its content, the
            tool calls too, or all: the reasoning as well, where the template shows it.
        checkpoints: The same model after moments of a training, in their order, for
            `learning_percentage` (the first and the last), `learning_percentage_approx` (the
            first), `learnability` and `reducible_loss` (the last).
        pruned: The same model after its pruning, for `degradation` and `ies`.
        min_answer_tokens: Tokens of the answers below which `learnability` is null.
        token_losses: Whether `token_losses` is added, a list: the negative log-likelihood of each
            token of the answers behind the prompt.

    Returns:
        One Float32 column per formula, `token_losses`, and `tokens` (Int32), the length of the
        rendered conversation.

    Raises:
        UserError: The model's chat template cannot render a conversation at all, a checkpoint
            has another vocabulary, or no row of `valid` has a loss.

    Example:
        ```yaml
        scored: {uses: score.loss, needs: pool, with: {model: base, formulas: [ppl, ifd]}}
        hard:   {uses: select.top, needs: scored, with: {score: ifd, budget: 1000}}
        ```
    """
    models = Models.opened(ctx, model, checkpoints, pruned, max_length)
    rendering = views.rendering(models.model.tokenizer, models.limit, view)
    shown = Rows(rows, rendering)
    needed = [*formulas, *(["loss"] if token_losses else [])]
    arrays = measured(ctx, models, shown, valid, needed)
    numbers = range(len(shown))
    scores = {name: [score(FORMULAS[name], arrays, i) for i in numbers] for name in formulas}
    if "learnability" in scores:
        _learnable(scores["learnability"], arrays, min_answer_tokens)
    columns: dict[str, pl.Series] = {
        name: pl.Series(values, dtype=pl.Float32) for name, values in scores.items()
    }
    if token_losses:
        lists = _token_losses(arrays, len(shown))
        columns["token_losses"] = pl.Series(lists, dtype=pl.List(pl.Float32))
    lengths = [None if c is None else len(c.tokens) for c in shown.rendered]
    columns["tokens"] = pl.Series(lengths, dtype=pl.Int32)
    columns["error"] = pl.Series(shown.errors, dtype=pl.String)
    return pl.DataFrame(columns)


def _learnable(values: list[float | None], arrays: Measured, least: int) -> None:
    """Take away the scores of short answers, and warn of a reference that knows the rows."""
    before, after = FORMULAS["learnability"].compares
    pairs = [(arrays.get((before, i)), arrays.get((after, i))) for i in range(len(values))]
    lost: list[float] = []
    for i, (old, new) in enumerate(pairs):
        if old is None or new is None or len(old) < least:
            values[i] = None
        else:
            lost.append(1 - mean_loss(new) / mean_loss(old) if mean_loss(old) else 0.0)
    if len(lost) >= ENOUGH and float(np.median(lost)) > LEARNED:
        _log.warning(
            "score.loss: half of the rows lost more than %.0f%% of their loss: the reference knows "
            "them by heart, and learnability prefers short answers; train it for one epoch",
            100 * float(np.median(lost)),
        )


def _token_losses(arrays: Measured, count: int) -> Sequence[list[float | None] | None]:
    """The losses of each row's answers, token by token."""
    one = FORMULAS["loss"].compares[0]
    assert isinstance(one, Pass)
    measured_rows: list[Any] = [arrays.get((one, i)) for i in range(count)]
    return [
        None if a is None else [None if np.isnan(x) else -float(x) for x in a]
        for a in measured_rows
    ]
