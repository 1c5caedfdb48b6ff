"""What a server refused is not billed, and not in flight once the stage has ended."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models import Api, Decoding, Price, Request
from pipeline.models.engines.registry import close_engines
from pipeline.models.journal.costs import costs
from pipeline.models.journal.journal import Journal
from tests.support.serving import FakeServer, error_response, fixed, listening, served

SHORT = Decoding(max_tokens=4)
REFUSALS = {
    "a wrong key": error_response("401 Unauthorized", "no such key"),
    "a quota": error_response("402 Payment Required", "no credit is left"),
    "all alike": error_response("400 Bad Request", "the model is on holiday"),
}


@pytest.mark.parametrize("response", REFUSALS.values(), ids=REFUSALS.keys())
def test_a_refusal_that_ends_the_stage_is_not_in_flight(tmp_path: Path, response: bytes) -> None:
    ctx = Context.scratch(tmp_path)
    with listening(FakeServer(fixed(response))) as port, pytest.raises(UserError):
        ctx.open(served(port, price=Price(1, 2))).generate(questions())
    close_engines()
    assert costs(Journal(ctx.store / "journal")) == []


def test_what_an_interface_cannot_say_is_not_in_flight(tmp_path: Path) -> None:
    ctx = Context.scratch(tmp_path)
    with listening(FakeServer()) as port:
        model = served(port, price=Price(1, 2), api=Api(provider="anthropic"))
        with pytest.raises(UserError, match="logprobs"):
            ctx.open(model).generate(questions(replace(SHORT, logprobs=5)))
    close_engines()
    assert costs(Journal(ctx.store / "journal")) == []


def questions(decoding: Decoding = SHORT) -> list[Request]:
    return [Request((("user", f"Name {i} seas."),), decoding) for i in range(9)]
