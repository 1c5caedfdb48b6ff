"""A process that asks in batches is killed at each of its steps: nothing is paid for twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.models.journal.costs import costs
from pipeline.models.journal.journal import Journal
from tests.support.journals import max_answers
from tests.support.servers.batch_killing import REQUESTS, killer
from tests.support.servers.batches import BatchBehaviour, batching
from tests.support.teacher import teacher

STEPS_AT_LEAST = {"openai": 40, "anthropic": 30}
STRIDE = 16
"""Of the steps that are tried in a quick test."""


@pytest.mark.parametrize("provider", STEPS_AT_LEAST)
def test_a_kill_at_some_steps_costs_nothing(tmp_path: Path, provider: str) -> None:
    check_kills(tmp_path, provider, STRIDE)


@pytest.mark.proof
@pytest.mark.parametrize("provider", STEPS_AT_LEAST)
def test_a_kill_at_any_step_costs_nothing(tmp_path: Path, provider: str) -> None:
    check_kills(tmp_path, provider, 1)


def check_kills(tmp_path: Path, provider: str, stride: int) -> None:
    behaviour = BatchBehaviour(questions=2, garbage=True, duplicated=True, expires=0.3)
    with batching(teacher, behaviour, provider=provider) as server:
        with killer(server.port, provider) as killed_at:
            number = 0
            while True:
                folder = tmp_path / str(number)
                folder.mkdir()
                before, money = server.billed.total(), server.money
                killed = killed_at(number, folder)
                if killed:
                    assert not killed_at(None, folder)
                assert server.billed.total() - before == REQUESTS, f"killed at step {number}"
                assert len(json.loads((folder / "texts.json").read_text())) == REQUESTS
                journal = Journal(folder / "store/journal")
                assert max_answers(journal) == 1
                assert journal.batches.open() == []
                paid = sum(entry["money"] for entry in costs(journal))
                assert paid == pytest.approx(server.money - money, rel=0.01)
                journal.close()
                if not killed:
                    break
                number += stride
        assert number >= STEPS_AT_LEAST[provider]
        assert set(server.billed.values()) == {1}
