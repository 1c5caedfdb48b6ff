"""Texts and code as instructions with answers, by ten methods.

Of prose:
- `fanno`: Zhu et al. 2024, arXiv:2408.01323. Screening, seeds by kind of task, demand and
  form, then rounds of "think different" with examples chosen by a bandit; the answers do
  not see the passage (as in the released code; `generate.respond` shows passages). The
  code's screening also drops passages that are near to no other; here they stay.
  seed_passages: give the seeds. window: passages in a round. count: no further round once
  there are so many rows. shots: examples. communities: the second is for instructions.
  ascii_only: a rule of the code.
- `instruction-pretraining`: Cheng et al. 2024, arXiv:2406.14491. Passages with several
  pairs each, `shots` of them to a row, the earlier ones shown for the later. form: a talk
  of many turns, or one text, as the paper trains on. tuned: the model is the authors'
  synthesizer, and is asked in its own form.
- `bonito`: Nayak et al. 2024, arXiv:2402.18334. A passage and one of 16 types of task.
  tuned: the model is the authors' Bonito.
- `agentinstruct`: Mitra et al. 2024, arXiv:2407.03502. Of nine skills, with lists of our
  own: passage transformed, instruction of one type, suggester and editor (refine), answer.
- `mammoth2`: Yue et al. 2024, arXiv:2405.03548. The pairs that a text holds, copied (which
  is checked without a model) and then made complete (refine).
- `aitp`: Liang et al. 2025, arXiv:2501.09368. Questions, scored from 1 to 10; answers
  rewritten from the text. min_quality: the paper names none; 7 stands for "clear".
- `self-supervised`: Self-Tuning, Zhang et al. 2024, arXiv:2406.06326. Exercises to memorise,
  comprehend and reflect, without any model.

Of code:
- `selfcodealign`: Wei et al. 2024, arXiv:2410.24198. Concepts, task of a category and a
  difficulty in a `language`, `samples` answers with tests. The paper shows 8 examples to a
  base model; here a model that follows instructions is told.
- `wavecoder`: Yu et al. 2023, arXiv:2312.14187. Four kinds of tasks; a discriminator checks
  rule by rule, and what it accepted and refused are the examples (shots) of later rounds.
  window, count: as for fanno.
- `oss-instruct`: Magicoder, Wei et al. 2023, arXiv:2312.02120. Some consecutive lines
  (snippet_lines) as the inspiration of a problem with its solution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any, Final, Literal, NamedTuple

import polars as pl

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models.base import Decoding, Embedder, LanguageModel
from pipeline.stage import Documents, Records, stage
from stages._common.unused_options import refuse_idle
from stages._llm.drafts import Draft, GenerateField, RowMessages, generate_field, to_frame
from stages._llm.rows import task_messages
from stages.generate.from_documents import (
    aitp,
    bonito,
    fanno,
    mammoth2,
    oss_instruct,
    passage_filters,
    selfcodealign,
    wavecoder,
)
from stages.generate.from_documents.agentinstruct import agentinstruct
from stages.generate.from_documents.agentinstruct_skills import SKILLS
from stages.generate.from_documents.instruction_pretraining import pretraining
from stages.generate.from_documents.passages import Means, passages, sample
from stages.generate.from_documents.self_tuning import EXERCISES, self_supervised

Method = Literal[
    "fanno",
    "instruction-pretraining",
    "bonito",
    "agentinstruct",
    "mammoth2",
    "aitp",
    "self-supervised",
    "selfcodealign",
    "wavecoder",
    "oss-instruct",
]

ADDS: Final = {
    "journal": pl.List(pl.String),
    "task_type": pl.String,
    "skill": pl.String,
    "level": pl.String,
    "round": pl.Int32,
    "tests": pl.String,
}
SHOWING: Final = ("fanno", "wavecoder", "instruction-pretraining")
"""The methods that show examples."""
_EVERY: Final = 1 << 30


class Way(NamedTuple):
    """A method with the settings of its paper or code.

    per_passage: how many of its task types (or questions, pairs, snippets) a passage gives.
    task_types: their names. code: texts are code. whole: documents are not cut.
    """

    run: Callable[[Means, list[Draft]], list[Draft]]
    decoding: Decoding
    per_passage: int = 1
    shots: int = 1
    samples: int = 1
    task_types: tuple[str, ...] = ()
    code: bool = False
    whole: bool = False
    tuned: bool = False


WAYS: Final[dict[str, Way]] = {
    "fanno": Way(
        *(fanno.fanno, Decoding(2048, 0.0, 0.9), _EVERY, 3), task_types=tuple(fanno.KINDS)
    ),
    "instruction-pretraining": Way(pretraining, Decoding(400, 0.0), 5, 2, tuned=True),
    "bonito": Way(
        *(bonito.bonito, Decoding(256, 0.5, 0.95)), task_types=tuple(bonito.TASKS), tuned=True
    ),
    "agentinstruct": Way(agentinstruct, Decoding(2048, 0.7), task_types=tuple(SKILLS)),
    "mammoth2": Way(mammoth2.mammoth2, Decoding(2048, 0.0)),
    "aitp": Way(aitp.aitp, Decoding(1024, 0.7), 2),
    "self-supervised": Way(self_supervised, Decoding(), _EVERY, task_types=tuple(EXERCISES)),
    "selfcodealign": Way(
        *(selfcodealign.selfcodealign, Decoding(1536, 0.7)),
        samples=10,
        task_types=selfcodealign.CATEGORIES,
        code=True,
    ),
    "wavecoder": Way(
        *(wavecoder.wavecoder, Decoding(800, 0.0)), task_types=tuple(wavecoder.KINDS), code=True
    ),
    "oss-instruct": Way(oss_instruct.oss_instruct, Decoding(2500, 0.0), code=True, whole=True),
}


def _check(options: SimpleNamespace) -> None:
    way, method = WAYS[options.method], options.method
    unknown = sorted(set(options.task_types) - set(way.task_types))
    wrong: dict[str, bool] = {
        f"method {method} asks a model, and there is none": options.model is None
        and method != "self-supervised",
        "nobody screens: there is neither model nor judge": bool(options.screen)
        and options.model is None
        and options.judge is None,
        f"method {method} has no released model with a form of its own": options.tuned
        and not way.tuned,
    }
    for told in (told for told, is_so in wrong.items() if is_so):
        raise UserError(told)
    if unknown:
        known = ", ".join(way.task_types) or "none: leave it out"
        raise UserError(f"task_types: {method} has no {', '.join(unknown)}", hint=f"there: {known}")
    for name in ("passage_characters", "snippet_lines"):
        low, high = getattr(options, name)
        if not 0 < low <= high:
            raise UserError(f"{name} is [{low}, {high}]", hint=f"{name}: [FEWEST, MOST]")
    for name in ("per_passage", "shots", "samples", "window"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}", hint="1 or more")
    judged = _screens(method, options.screen) or method in ("aitp", "wavecoder")
    refuse_idle(
        *(from_documents, options),
        (method in ("fanno", "wavecoder"), "fanno and wavecoder", "count window"),
        (method in SHOWING, "methods that show examples", "shots"),
        (method in ("agentinstruct", "mammoth2"), "agentinstruct and mammoth2", "refine"),
        (judged, "screening, aitp and wavecoder", "judge"),
        (method == "fanno", "method: fanno", "seed_passages ascii_only"),
        (method == "instruction-pretraining", "method: instruction-pretraining", "form"),
        (method == "aitp", "method: aitp", "min_quality"),
        (method == "selfcodealign", "method: selfcodealign", "samples language"),
        (method == "oss-instruct", "method: oss-instruct", "snippet_lines"),
        (method != "mammoth2", "methods that draw; mammoth2 takes all pairs", "per_passage"),
        (options.embedder is not None, "an embedder", "communities"),
    )


def _drawn(documents: pl.DataFrame, options: SimpleNamespace) -> list[Draft]:
    """The passages of the documents, those that are not drawn rejected."""
    way = WAYS[options.method]
    characters = options.passage_characters
    drafts = passages(documents, characters, code=way.code, whole=way.whole)
    return sample(drafts, options.seed, options.max_passages, options.per_document)


def _screens(method: str, screen: bool | None) -> bool:
    return method == "fanno" if screen is None else screen


@stage(version=1, scope="set", adds=ADDS, check=_check)
def from_documents(
    ctx: Context,
    documents: Documents,
    *,
    method: Method = "fanno",
    model: LanguageModel | None = None,
    judge: LanguageModel | None = None,
    embedder: Embedder | None = None,
    task_types: tuple[str, ...] = (),
    per_passage: int | None = None,
    passage_characters: tuple[int, int] = (200, 3000),
    max_passages: int | None = None,
    per_document: int | None = None,
    screen: bool | None = None,
    communities: tuple[float, float] = (0.7, 0.9),
    count: int | None = None,
    seed_passages: int = 10,
    window: int = 200,
    shots: int | None = None,
    samples: int | None = None,
    refine: bool = True,
    min_quality: float = 7,
    ascii_only: bool = True,
    tuned: bool = False,
    form: Literal["turns", "text"] = "turns",
    language: str = "Python",
    snippet_lines: tuple[int, int] = (1, 15),
    seed: int = 0,
    temperature: float | None = None,
    top_p: float | None = None,
    max_tokens: int | None = None,
    larger: tuple[int, ...] = (),
    source: str = "from_documents",
) -> Records:
    """New records, and a line for every passage or proposal that became none.

    `parents` is the document, whose licence stays. Adds `journal`, `task_type`, `skill`
    (the flow, or what is practised), `level`, `round` and `tests` (for `score.execution`).
    Options of single methods stand above with them. Those of all:

    judge: screens, scores and discriminates; by default the model does. embedder: leaves
        one of the passages whose cosine is at least `communities`.
    task_types: drawn from, by default all of the method. per_passage: how many of them (or
        questions, pairs, snippets) a passage gives, by default as many as in the paper.
    passage_characters: fewest and most. max_passages, per_document: as many are drawn.
    screen: throw out what is unclear, advertises or is private; by default for fanno.
    temperature, top_p, max_tokens: by default the method's; larger: limits for cut answers.
    """
    options = SimpleNamespace(**locals())
    way = WAYS[method]
    decoding = _decoding(way, temperature, top_p, max_tokens)
    means = Means(
        ask=_asking(ctx, model, decoding, seed, larger),
        judge=_asking(ctx, judge or model, Decoding(512), seed, larger),
        encode=ctx.open(embedder).encode if embedder else None,
        context_tokens=ctx.open(model).context_tokens if model else None,
        progress=ctx.progress,
        seed=seed,
        task_types=task_types or way.task_types,
        per_passage=per_passage or way.per_passage,
        count=count,
        seed_passages=seed_passages,
        window=window,
        shots=shots or way.shots,
        samples=samples or way.samples,
        communities=communities,
        refine=refine,
        min_quality=min_quality,
        ascii_only=ascii_only,
        tuned=tuned,
        form=form,
        language=language,
        snippet_lines=snippet_lines,
        max_tokens=decoding.max_tokens,
    )
    drafts = _drawn(documents, options)
    if _screens(method, screen):
        passage_filters.screen(means, drafts)
    passage_filters.thin_out(means, drafts)
    return to_frame(way.run(means, drafts), _talk, source, ADDS)


def _decoding(
    way: Way, temperature: float | None, top_p: float | None, max_tokens: int | None
) -> Decoding:
    """The method's decoding, with what the recipe says about it."""
    preset = way.decoding
    return replace(
        preset,
        temperature=preset.temperature if temperature is None else temperature,
        top_p=preset.top_p if top_p is None else top_p,
        max_tokens=max_tokens or preset.max_tokens,
    )


def _asking(
    ctx: Context,
    model: LanguageModel | None,
    decoding: Decoding,
    seed: int,
    larger: tuple[int, ...],
) -> GenerateField:
    """`generate_field` with everything filled in that is the same for all steps."""

    def nobody(*_: Any, **__: Any) -> None:
        raise UserError("this method asks a model, and there is none", hint="model: NAME")

    if model is None:
        return nobody
    return partial(generate_field, ctx.open(model), decoding=decoding, seed=seed, larger=larger)


def _talk(draft: Draft) -> RowMessages:
    """The messages; of a draft without an instruction the passage, to show what it was."""
    if "messages" in draft.fields:
        return draft["messages"], None
    given = draft.fields
    if not given.get("instruction"):
        return task_messages(given["passage"])
    return task_messages(given["instruction"], given.get("input", ""), given.get("response", ""))
