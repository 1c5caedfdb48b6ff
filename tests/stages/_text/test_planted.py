"""Planted instructions: nothing reserved is left in data, and test texts are none of training."""

from __future__ import annotations

import random
import time
from itertools import product
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages._text import planted as module
from stages._text.planted import MARKERS, Attack, Part, Planted, holds, plant, without_markers

PARTS: tuple[Part, ...] = get_args(Part)
ATTACKS: tuple[Attack, ...] = get_args(Attack)
PIECES = st.sampled_from([*MARKERS, "[", "]", "#", "IN", "ST", "[IN", "ST]", "MARK", " ", "a"])


@settings(max_examples=200, deadline=None)
@given(st.lists(PIECES, max_size=20).map("".join))
def test_no_marker_is_left_and_nothing_else_is_lost(text: str) -> None:
    left = without_markers(text, MARKERS)
    assert not any(marker in left for marker in MARKERS)
    assert without_markers(left, MARKERS) == left
    rest = iter(text)
    assert all(character in rest for character in left), "what is left stands there in its order"
    if not any(marker in text for marker in MARKERS):
        assert left == text


def test_deeply_nested_markers_take_one_pass() -> None:
    depth = 7_000
    text = "[INST" * depth + "]" * depth
    start = time.process_time()
    assert without_markers(f"a{text}b", MARKERS) == "ab"
    assert time.process_time() - start < 2


def _texts(part: Part) -> set[str]:
    phrases = [*module.PHRASES[part], *module.FORGED_ANSWERS[part], *module._FRAMES[part]]
    return {*phrases, *(name for names in module._NAMES[part].values() for name in names)}


def test_what_a_model_is_tested_with_it_has_not_seen() -> None:
    lowered = [{text.lower() for text in _texts(part)} for part in PARTS]
    assert lowered[0]
    assert lowered[1]
    assert lowered[0].isdisjoint(lowered[1])
    train, test = (
        {plant("Data", Planted("Sing.", "a song", attack, part), random.Random(n))
         for attack in ("ignore", "completion", "completion_ignore") for n in range(50)}
        for part in PARTS
    )  # fmt: skip
    assert train.isdisjoint(test)


@pytest.mark.parametrize(("attack", "part"), [*product(ATTACKS, PARTS)])
def test_an_attack_holds_the_instruction_and_its_input_once_behind_the_data(
    attack: Attack, part: Part
) -> None:
    for seed, (instruction, lowered) in product(
        range(20), [("Name {0} rivers.", "name {0} rivers."), ("Which {river}?", "Which {river}?")]
    ):
        result = plant(
            "2 and 3", Planted(instruction, "the Nile", attack, part), random.Random(seed)
        )
        assert result.startswith("2 and 3.")
        assert result.count("the Nile") == 1
        assert result.count(instruction) + result.count(lowered) * (lowered != instruction) == 1
        assert ("his question" in result) == (instruction.endswith("?") and attack != "completion")
        assert result == plant(
            "2 and 3", Planted(instruction, "the Nile", attack, part), random.Random(seed)
        )


def test_attacks_differ() -> None:
    results = {
        attack: plant("Data!", Planted("Sing.", "", attack), random.Random(1)) for attack in ATTACKS
    }
    assert len({*results.values()}) == len(ATTACKS)
    assert results["naive"] == "Data! Sing."
    assert set(results["escape_deletion"].removeprefix("Data!").removesuffix("Sing.")) <= {*"\b\r"}
    assert set(results["escape_separation"].removeprefix("Data!").removesuffix("Sing.")) <= {
        *"\n\t"
    }


def test_whole_words_hold_a_part() -> None:
    assert holds("Paris, Rome.", "rome")
    assert not holds("Romeo", "rome")
    assert holds("a Romeo and a Rome", "rome")
    assert holds("答案是茶。", "茶。")
    assert not holds("", "a")
    assert not holds("a", "")
