"""Every way in which a stage asks language models, small: what all of them must keep to."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

import polars as pl

from pipeline.models import LanguageModel
from pipeline.recipe.discovery import find
from pipeline.stage import Stage
from schemas.records import DOCUMENT_COLUMNS, digest
from stages.score.judge import Gap, Pairwise, PTrue, Rating, Rubric
from tests.support.rows import DATA, conversations, json_lines, sample

MODEL: Final = LanguageModel(model="none")
LIMIT: Final = 48
"""Tokens of an answer: about what the teacher says."""

_ROWS: Final = sample("self_instruct.jsonl.gz").head(20)
_BOOK: Final = [row["text"] for row in json_lines(DATA / "samples/rust_book.jsonl.gz")]
_PROBLEMS: Final = json_lines(DATA / "benchmarks/HumanEval.jsonl.gz")
_ANSWERS: Final = conversations(
    [(f"What is {n}?", f"It is {n} {word}.") for n in range(6) for word in ("indeed", "not", "so")]
)
_OTHERS: Final = conversations([(f"What is {n}?", f"It may be {n}.") for n in range(6)])
_CODE: Final = conversations(
    [(f"Write f{n}.", f"```\ndef f{n}():\n    return {n} * 2\n```") for n in range(8)]
)


class Case(NamedTuple):
    """One way: a stage, what stands on its edges, and its options."""

    stage: str
    method: str
    edges: dict[str, pl.DataFrame]
    options: dict[str, Any]

    @property
    def found(self) -> Stage:
        return find(self.stage)

    def all_options(self, folder: Path) -> dict[str, Any]:
        """Its options with the defaults, and a data set card of its own where it reads one."""
        given = {option.name: option.default for option in self.found.options} | self.options
        if "cards" in given:
            rows = DATA / "benchmarks/gsm8k_test.jsonl.gz"
            card = {"name": "GSM8K", "license": "MIT", "rows": str(rows), "description": "School."}
            (folder / "card.json").write_text(json.dumps(card))
            given["cards"] = (str(folder / "card.json"),)
        return given

    def rows(self, edge: str) -> pl.DataFrame | None:
        """As `pipeline.models.expected_requests.Rows`."""
        return self.edges.get(edge)

    def namespace(self, folder: Path) -> SimpleNamespace:
        return SimpleNamespace(**self.all_options(folder))


def _documents(texts: list[str]) -> pl.DataFrame:
    lines = [
        {"id": digest(t), "text": t, "origins": [{"source": "s", "index": i, "license": "MIT"}]}
        for i, t in enumerate(texts)
    ]
    return pl.DataFrame(lines, schema=DOCUMENT_COLUMNS).sort("id")


def _cases() -> list[Case]:
    book = _documents(_BOOK[:6])
    code = _documents([row["prompt"] + row["canonical_solution"] for row in _PROBLEMS[:12]])
    seeds = conversations([(f"Say number {n} aloud, please.", f"{n}!") for n in range(30)])
    prose = {"documents": book}

    def case(stage: str, method: str, edges: dict[str, pl.DataFrame], **options: Any) -> Case:
        models = {"models": (MODEL,)} if stage == "generate.respond" else {"model": MODEL}
        if stage == "generate.arena":
            models = {"models": (MODEL,) * 3}
        named = {} if method in ("", "tuned") else {"method": method}
        return Case(stage, method, edges, {**models, "max_tokens": LIMIT, **named, **options})

    def preset(name: str, **options: Any) -> Case:
        given = {"preset": name, "count": 14, "max_rouge_l": 1.0, "instance_max_tokens": (24, 24)}
        given["requests_per_round"] = 1
        one = case("generate.self_instruct", "", {"seeds": seeds}, **given, **options)
        return one._replace(method=name)

    judged = {"rows": _ANSWERS, "reference_answers": _OTHERS}
    rubric = Rubric(criteria=("It is short.", "It is true."))
    judging = (Rating(), rubric, PTrue(), Pairwise(), Gap())
    return [
        *(case("rewrite.evolve", m, {"rows": _ROWS}, rounds=2) for m in ("wizardlm", "rubric")),
        *(case("rewrite.evolve", m, {"rows": _ROWS}, rounds=2) for m in ("wizardlm-code", "turns")),
        *(case("generate.respond", m, {"rows": _ROWS}, n=2) for m in ("answer", "explain")),
        case("generate.respond", "reason", {"rows": _ROWS}),
        case("generate.respond", "context", {"rows": _ROWS, **prose}),
        case("generate.respond", "continue", prose, most_documents=4),
        *(case("generate.system_prompt", m, {"rows": _ROWS}, verify=True) for m in ("rules",)),
        case("generate.system_prompt", "profiles", {"rows": _ROWS}, profiles=4),
        case("generate.taxonomy", "curriculum", {}, subjects=("law", "art"), concepts=2),
        case("generate.taxonomy", "metadata", {"seeds": _ROWS}, per_seed=2),
        case("generate.taxonomy", "skills", {}, count=6),
        case("generate.from_metadata", "", {}),
        case("generate.arena", "", {}, count=3, challenges="asked", challenge_tokens=LIMIT),
        case("generate.backtranslate", "humback", prose, score_max_tokens=24),
        case("generate.backtranslate", "longform", prose, max_passages=5),
        *(
            case("generate.backtranslate", m, {"rows": _CODE}, candidates=3)
            for m in ("inverse", "induction")
        ),
        *(Case("score.judge", m.name, judged, {"model": MODEL, "method": m}) for m in judging),
        *(
            case("generate.from_documents", m, prose, max_passages=9, per_passage=2)
            for m in ("bonito", "agentinstruct", "aitp", "instruction-pretraining")
        ),
        case("generate.from_documents", "mammoth2", prose, refine=False),
        case("generate.from_documents", "fanno", prose, seed_passages=1, per_passage=6),
        *(
            case("generate.from_documents", m, {"documents": code}, samples=2)
            for m in ("selfcodealign", "wavecoder", "oss-instruct")
        ),
        preset("self-instruct", instances="simple", inputs="without"),
        preset("lamini"),
    ]


CASES: Final = _cases()
NAMES: Final = [f"{case.stage}-{case.method}".rstrip("-") for case in CASES]
