"""Instructions made harder or rarer in rounds, without the evolutions that failed.

- `wizardlm`, `wizardlm-code`, `wizardcoder`: Evol-Instruct's operators (see `operators.py`).
- `rubric`: CodecLM's Self-Rubrics (see `rubric.py`), with `target` also its Contrastive
  Filtering (see `contrast.py`).
- `smaller-evolvers`: the operators in turn, without elimination (see `smaller.py`).
- `m2lingual`: evolutions by task and language (see `m2lingual.py`).
- `turns`: conversations grow by a turn each round (see `turns.py`).
- `lift`: expansion, of which varied and good rows are kept later (see `lift.py`).

What fails is dropped (see `elimination.py`), and its instruction goes into the next round
as it was. `evolution.json` says for each round which operators were used, what failed and how
much longer instructions became (see `growth.py`).
"""

from __future__ import annotations

from functools import partial
from typing import Any

from pipeline.context import Context
from pipeline.models.base import Decoding, LanguageModel
from pipeline.stage import Records, stage
from pipeline.types import Count, Fraction, NonNegativeFloat
from stages._llm.drafts import GenerateField, generate_field, score_field, to_frame
from stages._llm.label_scores import MIN_MASS
from stages.rewrite.evolve.checks import Method, adds, check, columns, reads
from stages.rewrite.evolve.elimination import MAX_TOKENS
from stages.rewrite.evolve.growth import write_growth
from stages.rewrite.evolve.lift import Lift as Lift
from stages.rewrite.evolve.m2lingual import M2Lingual as M2Lingual
from stages.rewrite.evolve.operators import WizardCoder as WizardCoder
from stages.rewrite.evolve.operators import WizardLM as WizardLM
from stages.rewrite.evolve.operators import WizardLMCode as WizardLMCode
from stages.rewrite.evolve.rounds import Evolution, messages_of
from stages.rewrite.evolve.rubric import Rubric as Rubric
from stages.rewrite.evolve.smaller import SmallerEvolvers as SmallerEvolvers
from stages.rewrite.evolve.turns import Turns as Turns


@stage(
    version=5,
    scope="set",
    reads=reads,
    adds=adds,
    files=True,
    check=check,
    later=("judge_max_tokens", "keep_reasoning", "target", "judge", "min_mass"),
)
def evolve(
    ctx: Context,
    rows: Records,
    *,
    model: LanguageModel,
    answerer: LanguageModel | None = None,
    target: LanguageModel | None = None,
    judge: LanguageModel | None = None,
    method: Method = WizardLM(),
    rounds: Count = 4,
    seed: int = 0,
    temperature: NonNegativeFloat = 1.0,
    top_p: Fraction = 0.95,
    max_tokens: Count = 2048,
    judge_max_tokens: Count = MAX_TOKENS,
    min_mass: Fraction = MIN_MASS,
    keep_reasoning: bool = False,
    source: str = "evolve",
) -> Records:
    """New records: one for each row and round, evolved or dropped with a reason.

    The rows themselves are not among them: `load.concat` puts both together, as the
    paper does. Adds `journal`, `round` (from 1), `operators` (all that led here, in
    order) and `evolved_from`: the instruction before this round; with `target`
    `quality_gap`. `parents` is the row that it began with, whose license stays.

    Args:
        rows: Conversations; the first turn of the user is the instruction.
        model: Rewrites and compares.
        answerer: Answers; by default the same model.
        target: With method: rubric, the model that will be tuned. An instruction is kept, and
            its rounds end, where the grades of its answer and of the answerer's differ enough.
        judge: Grades the answers of both; by default the model that rewrites.
        method: wizardlm, wizardlm-code, wizardcoder, rubric, smaller-evolvers, m2lingual, turns
            or lift, each with its own options.
        rounds: How often each row is evolved; WizardLM's number.
        seed: Seed of the sampling and of the choice of operators.
        temperature: Of instructions and answers; comparisons are greedy.
        top_p: Nucleus of the sampling.
        max_tokens: Limit of an instruction or an answer in tokens.
        judge_max_tokens: Limit of a comparison or a grade in tokens.
        min_mass: The least probability that all grades together must have; with less the
            grade cannot be read.
        keep_reasoning: Whether what the model reasoned before its answers becomes their
            `reasoning`.
        source: Name of the new records' source.

    Returns:
        The new records. Rows are dropped as `no_gain`, `prompt_leaked`, `refusal`,
        `no_content`, `no_instruction`, `no_metadata`, `has_tools` (the model would not have
        them), by m2lingual and turns as `language_changed`, by turns as `no_answer` (the
        row does not end with one), and for answers that were cut or
        unreadable as `evolved_cut`, `evolved_unparsed`, `actions_cut`, `new_input_cut`,
        `response_cut`, `target_response_cut` and so on, for comparisons and grades as
        `unreadable`. What is dropped is tried again in the next round, with another operator
        where these are drawn; what is dropped as `no_gap` goes on as it is now.

    Example:
        ```yaml
        evolved:
          uses: rewrite.evolve
          needs: pool
          with: {model: writer, method: {name: wizardcoder, eliminate: false}, rounds: 3}
        ```
    """
    engine = ctx.open(model)
    decoding = Decoding(max_tokens, temperature, top_p)

    def writing(model: LanguageModel | None, decoding: Decoding = decoding) -> GenerateField:
        opened = ctx.open(model) if model else engine
        return partial(generate_field, opened, decoding=decoding, seed=seed)

    limits: dict[str, Any] = {"min_mass": min_mass, "max_tokens": judge_max_tokens}
    grade = partial(score_field, ctx.open(judge) if judge else engine, seed=seed, **limits)
    answering = decoding
    if isinstance(method, SmallerEvolvers):
        answering = Decoding(max_tokens, method.answer_temperature, top_p)
    evolution = Evolution(
        *(method, writing(None), writing(answerer, answering)),
        (writing(target), grade) if target else None,
        *(seed, judge_max_tokens, keep_reasoning),
    )
    current = evolution.begin(rows)
    drafts = [draft for draft in current if not draft.active]
    current = [draft for draft in current if draft.active]
    for number in range(1, rounds + 1):
        evolved = evolution.round(current, number)
        drafts += evolved
        current = evolution.next(current, evolved)
        ctx.progress(number, rounds)
    write_growth(ctx.files, drafts, rounds)
    return to_frame(drafts, messages_of, source, columns(with_gap=target is not None))
