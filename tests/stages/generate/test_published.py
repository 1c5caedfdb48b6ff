"""The numbers that papers and their code state stand where no option says otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.models import Decoding
from stages.generate.from_documents import WAYS, fanno, from_documents
from stages.generate.self_instruct.presets import PRESETS, settings
from stages.rewrite._operators import OPERATORS, SORRY_WORDS
from stages.rewrite.evolve import evolve
from stages.score.judge import SCALES
from stages.select.response import Consensus
from tests.support.options import options_of


@pytest.mark.parametrize(
    ("preset", "stated"),
    [
        ("self-instruct", {"words": (4, 150), "max_tokens": 1024, "max_rouge_l": 0.7}),
        ("self-instruct", {"instance_temperature": 0.0, "instance_presence_penalty": 1.5}),
        ("self-instruct", {"instance_max_tokens": (350, 300), "max_instances": 5}),
        ("self-instruct", {"on_length": "discard", "capitalize": "sentence"}),
        ("alpaca", {"demonstrations": 3, "machine_demonstrations": 0, "temperature": 1.0}),
        ("alpaca", {"top_p": 1.0, "max_tokens": 3072, "max_rouge_l": 0.7, "list_until": 20}),
        ("unnatural", {"demonstrations": 3, "demonstration_sets": 5, "instance_temperature": 0.0}),
        ("ensemble-instruct", {"demonstrations": 24, "max_rouge_l": 0.7}),
    ],
)
def test_self_instruct_and_its_kin(preset: str, stated: dict[str, Any]) -> None:
    found = vars(PRESETS[preset])
    assert {name: found[name] for name in stated} == stated


def test_ensemble_instruct_without_inputs_shows_ten() -> None:
    assert settings("ensemble-instruct", {"inputs": "without"}).demonstrations == 10


def test_evol_instruct() -> None:
    options = options_of(evolve, model=None)
    assert (options.temperature, options.top_p, options.max_tokens) == (1.0, 0.95, 2048)
    assert (options.rounds, SORRY_WORDS) == (4, 80)
    assert [len(OPERATORS[name]) for name in ("wizardlm", "wizardlm-code")] == [6, 5]


def test_fanno_bonito_and_oss_instruct() -> None:
    assert (fanno._TOP, fanno._EXPLORATION) == (0.05, 3.0)
    assert WAYS["bonito"].decoding == Decoding(256, 0.5, 0.95)
    assert WAYS["oss-instruct"].decoding.temperature == 0.0
    assert WAYS["selfcodealign"].decoding.temperature == 0.7
    options = options_of(from_documents, method="oss-instruct", model=None)
    assert options.snippet_lines == (1, 15)


def test_judges_and_consensus() -> None:
    assert SCALES["quality"] == SCALES["complexity"] == (1, 6)
    assert (SCALES["accuracy"], SCALES["helpfulness"]) == ((0, 5), (1, 5))
    assert Consensus().min_rouge_l == 0.01
