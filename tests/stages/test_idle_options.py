"""An option that cannot change anything is an error before anything runs, at every stage."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.models import LanguageModel
from pipeline.recipe.discovery import find
from pipeline.stage import Stage
from tests.support.options import options_of

MODEL = LanguageModel(model="none")
RUBRIC = {"method": "rubric", "criteria": ("It is short.",)}

IDLE: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("mix.weights", {"method": "balanced", "budget": 9}, {"cap": 3, "temperature": 4.0}),
    ("mix.weights", {"method": "temperature", "budget": 9}, {"redundancy": 0.1, "groups": 2}),
    ("mix.weights", {"method": "balanced", "budget": 9}, {"vector": "v", "descending": False}),
    ("mix.weights", {"method": "balanced", "budget": 9, "by": "ifd"}, {"seed": 3, "tokens": "n"}),
    ("select.stratified", {"group": "source", "budget": 9}, {"descending": False, "tokens": "n"}),
    ("select.stratified", {"group": "a", "budget": 9, "shares": {"x": 1}}, {"quota": "uniform"}),
    ("select.stratified", {"group": "a", "budget": 9, "by": "ifd"}, {"seed": 1}),
    ("select.random", {"budget": 9}, {"tokens": "n"}),
    ("select.coverage", {"budget": 9}, {"tokens": "n"}),
    (
        "select.diverse",
        {"objective": "facility_location", "budget": 9},
        {"weight": 0.2, "descending": False, "threshold": 0.5, "first": "random", "seed": 1}
        | {"penalty": 0.1, "represent": "target", "relevance": 2.0, "epsilon": 0.1, "tokens": "n"},
    ),
    ("select.diverse", {"objective": "k_center", "budget": 9, "by": "ifd"}, {"weight": 0.1}),
    (
        "select.diverse",
        {"objective": "threshold", "by": "ifd"},
        {"search": "stochastic", "unit": "tokens"},
    ),
    (
        "select.clusters",
        {"budget": 9},
        {"nearest": 3, "descending": False, "update": "softmax", "tokens": "n"},
    ),
    ("select.clusters", {"rule": "car", "by": "ifd"}, {"quota": "uniform", "unit": "tokens"}),
    ("select.top", {"by": "ifd", "minimum": 1}, {"share_of": "fitting", "descending": False}),
    ("select.top", {"by": "ifd", "minimum": 1}, {"unit": "tokens"}),
    ("select.target", {"mode": "gaps", "budget": 9}, {"order": "mean", "field": "both"}),
    ("select.target", {"mode": "gaps", "budget": 9}, {"min_words": 3, "sample": False, "seed": 1}),
    ("select.target", {"mode": "distribution", "budget": 9}, {"dimensions": 3, "vector": "v"}),
    (
        "select.response",
        {"by": "ifd"},
        {"answer": "a", "min_votes": 2, "voice": "model", "agreement": "own", "min_rouge_l": 0.5},
    ),
    ("select.response", {"method": "majority"}, {"descending": False}),
    ("dedup.novelty", {"measure": "cosine"}, {"field": "response"}),
    ("dedup.novelty", {}, {"vector": "v"}),
    ("dedup.semantic", {"exact_up_to": None}, {"clusters": 4, "seed": 1}),
    ("load.benchmarks", {"names": ("gsm8k",)}, {"benchmark": "own", "key": "k"}),
    ("decontaminate.semantic", {}, {"temperature": 0.3, "max_tokens": 4}),
    (
        "generate.self_instruct",
        {"count": 9},
        {"topics": ("a",), "task": "Add.", "domain": "law"},
    ),
    (
        "generate.self_instruct",
        {"count": 9, "preset": "unnatural"},
        {"classification_demonstrations": (1, 1), "words": (1, 9), "ascii_start": True},
    ),
    (
        "generate.taxonomy",
        {},
        {
            "education": "school",
            "per_seed": 2,
            "most_skills": 2,
            "skills": {"a": "b", "c": "d", "e": "f"},
        }
        | {"topics": ("a",), "combine": 1},
    ),
    (
        "generate.taxonomy",
        {"method": "skills", "count": 9},
        {"subjects": ("law",), "concepts": 2, "levels": ("create",), "answer": False},
    ),
    (
        "generate.respond",
        {"models": (MODEL,), "method": "reason"},
        {"system": "Be brief.", "explanations": ("steps",), "passages": 2}
        | {"passage_words": 9, "cut": 0.2, "most_documents": 9},
    ),
    ("generate.system_prompt", {}, {"profiles": 3, "topics": ("a",)}),
    ("generate.system_prompt", {"method": "profiles"}, {"rules": (2, 3)}),
    ("generate.arena", {"models": (MODEL,) * 3, "count": 2}, {"domain": "law"}),
    (
        "generate.backtranslate",
        {},
        {"styles": ("chat",), "candidates": 3, "group": "a", "examples": 2},
    ),
    (
        "generate.backtranslate",
        {"method": "inverse"},
        {"prompting": "trained", "passage_characters": (1, 9), "max_passages": 3}
        | {"per_document": 2, "score_from": "likelihood", "strict": False, "score_max_tokens": 9},
    ),
    ("generate.backtranslate", {"score_from": "likelihood"}, {"strict": False}),
    ("rewrite.evolve", {"method": "rubric", "answer": False}, {"answerer": MODEL}),
    ("rewrite.evolve", {"method": "rubric"}, {"operators": ("deepen",)}),
    ("score.judge", {}, {"criteria": ("It is short.",), "most_pairs": 3}),
    ("score.judge", RUBRIC, {"aspects": ("complexity",), "turns": "sum"}),
    (
        "generate.from_documents",
        {"method": "bonito"},
        {"count": 3, "window": 3, "seed_passages": 3, "ascii_only": False, "shots": 2}
        | {"form": "text", "refine": False, "min_quality": 3, "samples": 2, "language": "C"}
        | {"snippet_lines": (1, 2), "communities": (0.1, 0.2), "judge": MODEL},
    ),
    ("generate.from_documents", {"method": "mammoth2"}, {"per_passage": 2}),
    ("train.sft", {"steps": 2}, {"lora_rank": 8}),
    ("report.ablation", {}, {"lora_rank": 8}),
]
EACH = [(stage, base, {name: value}) for stage, base, idle in IDLE for name, value in idle.items()]


def checked(stage: Stage, given: dict[str, Any], model: LanguageModel) -> None:
    assert stage.check is not None
    stage.check(options_of(stage.function, **{"model": model} | given))


@pytest.mark.parametrize(
    ("stage", "base", "idle"),
    EACH,
    ids=[f"{s}-{b.get('method', '')}-{next(iter(i))}" for s, b, i in EACH],
)
def test_an_option_without_effect_is_an_error(
    stage: str, base: dict[str, Any], idle: dict[str, Any], tinylm: LanguageModel
) -> None:
    checked(find(stage), base, tinylm)
    (name,) = idle
    with pytest.raises(UserError, match=f"^{name}: .* has no effect here") as told:
        checked(find(stage), base | idle, tinylm)
    assert told.value.hint == f"leave {name} out"


def test_splits_and_revisions_are_of_data_sets(tinylm: LanguageModel) -> None:
    from tests.conftest import ROOT

    path = (str(ROOT / "data/samples/self_instruct.jsonl.gz"),)
    base = {"path": path, "source": "s", "license": "MIT"}
    checked(find("load.records"), base, tinylm)
    for name in ("split", "revision"):
        with pytest.raises(UserError, match=f"^{name}: "):
            checked(find("load.records"), base | {name: "other"}, tinylm)
