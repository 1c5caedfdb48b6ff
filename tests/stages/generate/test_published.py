"""The numbers that papers and their code state stand where no option says otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.models import Decoding
from pipeline.recipe.problems import option_groups
from stages.generate.from_documents import Method, fanno
from stages.generate.from_documents.context import DocumentMethod
from stages.generate.self_instruct.instance_options import Examples
from stages.generate.self_instruct.methods import (
    Alpaca,
    EnsembleInstruct,
    SelfInstruct,
    Unnatural,
)
from stages.generate.self_instruct.task_options import TaskWriting
from stages.rewrite.evolve import evolve
from stages.rewrite.evolve.elimination import REFUSAL_WORDS
from stages.rewrite.evolve.operators import WizardLM, WizardLMCode
from stages.score.judge.rating import SCALES
from stages.select.response import Consensus
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
def test_self_instruct_and_its_successors(method: TaskWriting, stated: dict[str, Any]) -> None:
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


STATED: dict[str, dict[str, Any]] = {
    "fanno": {"decoding": Decoding(2048, 0.0, 0.9), "num_shots": 3, "num_seed_passages": 10}
    | {"passages_per_round": 200, "filters_passages": True},
    "instruction-pretraining": {"decoding": Decoding(400, 0.0), "per_passage": 5},
    "bonito": {"decoding": Decoding(256, 0.5, 0.95)},
    "agentinstruct": {"decoding": Decoding(2048, 0.7)},
    "mammoth2": {"decoding": Decoding(2048, 0.0)},
    "aitp": {"decoding": Decoding(1024, 0.7), "per_passage": 2, "min_quality": 7},
    "self-supervised": {"uses_model": False, "per_passage": None},
    "selfcodealign": {"decoding": Decoding(1536, 0.7), "num_samples": 10},
    "wavecoder": {"decoding": Decoding(800, 1.0), "num_shots": 1},
    "oss-instruct": {"decoding": Decoding(2500, 0.0), "snippet_lines": (1, 15)},
}


def test_every_method_from_documents() -> None:
    groups = option_groups(Method)
    assert list(groups) == list(STATED)
    for name, stated in STATED.items():
        method = groups[name]()
        assert {key: getattr(method, key) for key in stated} == stated, name
        assert groups[name].__module__.rsplit(".", 1)[1] == name.replace("-", "_")
    assert set(DocumentMethod.__subclasses__()) == set(groups.values())
    assert (fanno._TOP, fanno._EXPLORATION) == (0.05, 3.0)


def test_judges_and_consensus() -> None:
    assert SCALES["quality"] == SCALES["complexity"] == (1, 6)
    assert (SCALES["accuracy"], SCALES["helpfulness"]) == ((0, 5), (1, 5))
    assert Consensus().min_rouge_l == 0.01
