"""Several models that ask in batches: all are submitted before any is awaited, and paid once."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.context import Context
from pipeline.errors import Exit, UserError
from pipeline.models import Batching, Completion, Decoding, LanguageModel, Request
from pipeline.models.base import Engine
from pipeline.models.budget import Budget, BudgetLimit, BudgetTracker
from pipeline.models.engines import batches as scheduler
from pipeline.models.journal.journal import Journal
from pipeline.models.side_by_side import side_by_side
from tests.conftest import ROOT
from tests.support.servers.batches import EAGER, BatchBehaviour, BatchServer, batching
from tests.support.teacher import teacher

NOW = Batching(wait=False, poll=0.01)
ASKED = [
    Request((("user", f"Name the sea number {i}."),), Decoding(max_tokens=60)) for i in range(8)
]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "FIRST_POLL", 0.002)


def context(folder: Path, **limits: float) -> tuple[Context, BudgetTracker]:
    ctx, tracker = Context.scratch(folder), BudgetTracker("the budget", BudgetLimit(**limits))  # type: ignore[arg-type]
    ctx.budget = Budget([tracker], "recipe", "stage")
    return ctx, tracker


def named(server: BatchServer, number: int, batch: bool | Batching = EAGER) -> LanguageModel:
    """A model of its own on the server."""
    return replace(server.model(batch), model=f"model-{number}", served_name="plain")


def answers(_: int, engine: Engine) -> list[Completion]:
    return engine.generate(ASKED)


@pytest.mark.parametrize("batch", [EAGER, Batching(poll=0.01, max_requests=3)])
def test_all_are_submitted_before_one_has_ended(tmp_path: Path, batch: Batching) -> None:
    with batching(teacher, BatchBehaviour(questions=30)) as server:
        ctx, tracker = context(tmp_path)
        models = [named(server, number, batch) for number in range(3)]
        begun: list[int] = []
        end = server._end

        def ended(one: object) -> None:
            begun.append(len(server.batches))
            end(one)  # type: ignore[arg-type]

        server._end = ended  # type: ignore[method-assign, assignment]
        single = [named(server, number, False) for number in range(3)]
        together = side_by_side(ctx, models, answers)
        assert begun[0] == len(server.batches) >= 3
        assert tracker.money == pytest.approx(server.money, rel=0.01)
        assert Journal(ctx.store / "journal").batches.open() == []
        assert ctx.counters["requests"] == 3 * len(ASKED)
        other, _ = context(tmp_path / "other")
        expected = side_by_side(other, single, answers)
    assert [[a.text for a in each] for each in together] == [
        [a.text for a in each] for each in expected
    ]


def test_a_run_that_does_not_wait_names_all_that_it_waits_for(tmp_path: Path) -> None:
    with batching(teacher) as server:
        ctx, _ = context(tmp_path)
        models = [named(server, number, NOW) for number in range(2)]
        with pytest.raises(UserError) as error:
            side_by_side(ctx, models, answers)
        assert error.value.code is Exit.WAITING
        assert {"batch_0", "batch_1"} <= set(error.value.what.replace(",", "").split())
        assert server.submissions == 2
        for _ in range(2):
            with suppress(UserError):
                side_by_side(ctx, models, answers)
        assert [len(each) for each in side_by_side(ctx, models, answers)] == [len(ASKED)] * 2
        assert server.submissions == 2


def test_equal_models_pay_once(tmp_path: Path) -> None:
    with batching(teacher) as server:
        ctx, _ = context(tmp_path)
        one = named(server, 0)
        slow = replace(one, limits=replace(one.limits, concurrency=2))
        first, second, _ = side_by_side(ctx, [one, slow, named(server, 1)], answers)
        assert [a.text for a in first] == [a.text for a in second]
        assert server.submissions == 2


def test_one_that_fails_ends_the_others(tmp_path: Path) -> None:
    with batching(teacher, BatchBehaviour(questions=10**6)) as server:
        ctx, _ = context(tmp_path)

        def work(position: int, engine: Engine) -> list[Completion]:
            if position:
                raise UserError("no such thing")
            return answers(position, engine)

        before = threading.active_count()
        with pytest.raises(UserError, match="no such thing"):
            side_by_side(ctx, [named(server, number) for number in range(2)], work)
        assert threading.active_count() <= before + 1, "the connections' thread is left"


def test_a_budget_is_one_for_all(tmp_path: Path) -> None:
    with batching(teacher) as server:
        ctx, tracker = context(tmp_path, requests=len(ASKED) + 2)
        models = [named(server, number) for number in range(2)]
        with pytest.raises(UserError) as error:
            side_by_side(ctx, models, answers)
        assert error.value.code is Exit.BUDGET
        assert sum(server.billed.values()) <= len(ASKED) + 2
        assert tracker.money == pytest.approx(server.money, rel=0.01)


RECIPE = """
name: r
models:
  a: {{engine: openai, model: plain, id: a, base_url: "http://127.0.0.1:{port}/v1", batch: true}}
  b: {{engine: openai, model: plain, id: b, base_url: "http://127.0.0.1:{port}/v1", batch: true}}
stages:
  pool: {{uses: load.records, with: {{path: rows.jsonl, source: s, license: MIT}}}}
  answers: {{uses: generate.respond, needs: {{rows: pool}}, with: {{models: [a, b]}}}}
"""


@pytest.mark.proof
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_waits_is_interrupted_at_once(tmp_path: Path, sign: signal.Signals) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Name the sea.", "completion": "x"}\n')
    with batching(teacher, BatchBehaviour(questions=10**6)) as server:
        (tmp_path / "r.yaml").write_text(RECIPE.format(port=server.port))
        command = [sys.executable, "-m", "pipeline", "run", str(tmp_path / "r.yaml"), "--store"]
        run = subprocess.Popen([*command, str(tmp_path / "store")], cwd=ROOT)
        try:
            while len(server.batches) < 2:
                assert run.poll() is None
                time.sleep(0.05)
            time.sleep(1.0)
            run.send_signal(sign)
            assert run.wait(30) == Exit.INTERRUPTED
        finally:
            run.kill()
            run.wait()
        assert server.submissions == 2
