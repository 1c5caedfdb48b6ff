"""The numbers that papers and their code state stand where no option says otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.models import Decoding
from stages.generate.from_documents import WAYS, fanno, from_documents
from stages.generate.self_instruct.instances import Examples
from stages.generate.self_instruct.methods import (
    Alpaca,
    EnsembleInstruct,
    Method,
    SelfInstruct,
    Unnatural,
)
from stages.rewrite.evolve import evolve
from stages.rewrite.evolve.elimination import REFUSAL_WORDS
from stages.rewrite.evolve.operators import WizardLM, WizardLMCode
from stages.score.judge.rating import SCALES
from stages.select.response import response
from tests.support.options import options_of


@pytest.mark.parametrize(
    ("method", "stated"),
    [
        (SelfInstruct(), {"max_tokens": 1024, "max_rouge_l": 0.7}),
        (SelfInstruct(), {"on_length": "discard", "capitalize": "sentence"}),
        (Alpaca(), {"num_shots": 3, "max_generated_shots": 0, "temperature": 1.0}),
        (Alpaca(), {"top_p": 1.0, "max_tokens": 3072, "max_rouge_l": 0.7, "list_until": 20}),
        (Unnatural(), {"num_shots": 3, "num_shot_sets": 5}),
        (EnsembleInstruct(inputs="with"), {"shots": 24, "max_rouge_l": 0.7}),
        (EnsembleInstruct(inputs="without"), {"shots": 10}),
    ],
)
def test_self_instruct_and_its_successors(method: Method, stated: dict[str, Any]) -> None:
    assert {name: getattr(method, name) for name in stated} == stated


def test_the_instances_of_self_instruct() -> None:
    examples = SelfInstruct().instances
    assert isinstance(examples, Examples)
    assert (examples.temperature, examples.presence_penalty) == (0.0, 1.5)
    assert (examples.max_tokens, examples.max_instances) == ((350, 300), 5)
    assert SelfInstruct().instruction_filter is not None
    assert SelfInstruct().instruction_filter.words == (4, 150)
    assert Unnatural().instances is not None
    assert Unnatural().instances.temperature == 0.0


def test_evol_instruct() -> None:
    options = options_of(evolve, model=None)
    assert (options.temperature, options.top_p, options.max_tokens) == (1.0, 0.95, 2048)
    assert (options.rounds, REFUSAL_WORDS) == (4, 80)
    assert [len(method.operators) for method in (WizardLM(), WizardLMCode())] == [6, 5]


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
    assert options_of(response).min_rouge_l == 0.01
