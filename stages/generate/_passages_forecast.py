"""What `generate.from_documents` will ask, method by method, if nothing is dropped on the way.

A method is a few lines: which prompt file, for how many of what, which earlier answers
it shows. A document that says little or gives several pairs makes fewer or more of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from pipeline.forecast import Asking
from pipeline.models.base import LanguageModel
from stages._drafts import YES_OR_NO
from stages._prompts import size
from stages._sizes import mean
from stages.generate._fanno import DEMANDS, FORMS
from stages.generate._reading import SCORED
from stages.generate._screening import QUESTIONS
from stages.generate._snippets import DIFFICULTIES
from stages.generate._wavecoder import JUDGED

_FOLDER: Final = "generate/from_documents"
_LINE: Final = 40
"""Characters of a line of code, about."""
_QUESTION: Final = 100
"""Characters of a question in a list, about."""
_SHOWN: Final = 130
"""Tokens of the 100 words of an instruction that FANNO shows, about."""


@dataclass(frozen=True)
class Work:
    """What there is to do. passages: how many; text: their mean characters.

    each: how much of its method's task types, pairs or snippets a passage gives. most: the
    rows after which no further round begins. limit: tokens of an answer. The other fields
    are options of `generate.from_documents`.
    """

    model: LanguageModel
    judge: LanguageModel
    passages: float
    text: float
    each: int
    task_types: int
    limit: int
    shots: int
    samples: int
    count: int | None
    seed_passages: int
    window: int
    refine: bool
    snippet_lines: tuple[int, int]

    def ask(
        self, name: str, requests: float, characters: float = 0, *, shown: tuple[int, ...] = ()
    ) -> Asking:
        """Requests of the writing model with this prompt file around so many characters."""
        around = characters + size(f"{_FOLDER}/{name}")
        return Asking(self.model, requests, around, self.limit, shown)

    def within(self, passages: float, rows: float) -> float:
        """So many of the passages as lie in rounds that begin before there are enough rows."""
        if self.count is None:
            return passages
        rounds = -(-max(0, self.count - rows) // self.window)
        return min(passages, rounds * self.window)


def screening(work: Work) -> list[Asking]:
    """Every question about every passage."""
    return [
        work.ask(f"screen/{name}", work.passages, work.text)._replace(
            model=work.judge, answer=YES_OR_NO.max_tokens
        )
        for name in QUESTIONS
    ]


def _fanno(work: Work) -> list[Asking]:
    first = min(work.passages, work.seed_passages)
    seeds = first * min(work.each, len(DEMANDS) * work.task_types * len(FORMS))
    others = work.within(work.passages - first, seeds)
    examples = (min(_SHOWN, work.limit),) * work.shots
    return [
        work.ask("fanno/seed", seeds, work.text),
        work.ask("fanno/different", others, work.text, shown=examples),
        Asking(work.model, seeds + others, 0, work.limit, (work.limit,)),
    ]


def _pretraining(work: Work) -> list[Asking]:
    name, asked = "instruction_pretraining/pairs", work.passages / work.shots
    around = work.text + size(f"{_FOLDER}/{name}")
    return [
        work.ask(name, asked, work.text + before * around, shown=(work.limit,) * before)
        for before in range(work.shots)
    ]


def _bonito(work: Work) -> list[Asking]:
    return [work.ask("bonito/task", work.passages * min(work.each, work.task_types), work.text)]


def _agentinstruct(work: Work) -> list[Asking]:
    flows, limit = work.passages * min(work.each, work.task_types), work.limit
    refined = [
        work.ask("agentinstruct/suggest", flows, shown=(limit, limit)),
        work.ask("agentinstruct/edit", flows, shown=(limit, limit)),
    ]
    return [
        work.ask("agentinstruct/transform", flows, work.text),
        work.ask("agentinstruct/instruction", flows, shown=(limit,)),
        *(refined if work.refine else ()),
        Asking(work.model, flows, 0, limit, (limit, limit)),
    ]


def _mammoth2(work: Work) -> list[Asking]:
    """As if every text held one pair."""
    refined = work.ask("mammoth2/refine", work.passages, shown=(work.limit,))
    extracted = work.ask("mammoth2/extract", work.passages, work.text)
    return [extracted, refined] if work.refine else [extracted]


def _aitp(work: Work) -> list[Asking]:
    questions = work.passages * work.each
    scored = work.ask("aitp/score", questions, _QUESTION)
    return [
        work.ask("aitp/questions", work.passages, work.text),
        scored._replace(model=work.judge, answer=SCORED.max_tokens),
        work.ask("aitp/answer", questions, work.text + _QUESTION),
    ]


def _selfcodealign(work: Work) -> list[Asking]:
    tasks = work.passages * min(work.each, work.task_types * len(DIFFICULTIES))
    shown = (work.limit,)
    return [
        work.ask("selfcodealign/concepts", work.passages, work.text),
        work.ask("selfcodealign/instruction", tasks, _QUESTION),
        work.ask("selfcodealign/answer", tasks * work.samples, shown=shown),
    ]


def _wavecoder(work: Work) -> list[Asking]:
    rows = work.within(work.passages * min(work.each, work.task_types), 0)
    rules = mean([size(f"{_FOLDER}/wavecoder/rules/{kind}") for kind in ("generation", "repair")])
    example = work.text + _QUESTION
    asked = rules + work.text
    return [
        work.ask(
            *("wavecoder/generate", rows, asked + work.shots * example),
            shown=(work.limit,) * work.shots,
        ),
        work.ask("wavecoder/discriminate", rows, asked, shown=(work.limit,))._replace(
            model=work.judge, answer=JUDGED.max_tokens
        ),
    ]


def _oss_instruct(work: Work) -> list[Asking]:
    lines = min(work.text, mean(work.snippet_lines) * _LINE)
    around = lines + size(f"{_FOLDER}/oss_instruct/system")
    return [work.ask("oss_instruct/problem", work.passages * work.each, around)]


STEPS: Final[Mapping[str, Callable[[Work], list[Asking]]]] = {
    "fanno": _fanno,
    "instruction-pretraining": _pretraining,
    "bonito": _bonito,
    "agentinstruct": _agentinstruct,
    "mammoth2": _mammoth2,
    "aitp": _aitp,
    "selfcodealign": _selfcodealign,
    "wavecoder": _wavecoder,
    "oss-instruct": _oss_instruct,
}
"""What each method that asks a model asks."""
