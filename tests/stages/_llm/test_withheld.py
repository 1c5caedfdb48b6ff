"""What a provider's filter withheld is dropped under a reason that the stage names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import Exit
from pipeline.models.engines.registry import close_engines
from pipeline.recipe.recipe import Recipe
from stages.generate.column import column
from stages.score.column import column as score
from tests.support.running import counts, run
from tests.support.serving import NAME, FakeServer, fixed, http_response, listening

BODY = {
    "choices": [{"message": {"content": None}, "finish_reason": "content_filter"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 0},
}
NUMBER = {"name": "integer", "low": 1, "high": 99}
DRAWN = {"uses": "generate.sample", "with": {"num_rows": 3, "columns": {"n": NUMBER}}}


@pytest.fixture
def model() -> Iterator[dict[str, Any]]:
    answer = http_response("200 OK", json.dumps(BODY).encode())
    with listening(FakeServer(fixed(answer))) as port:
        yield {"engine": "openai", "model": NAME, "base_url": f"http://127.0.0.1:{port}/v1"}
    close_engines()


@pytest.mark.parametrize("uses", ["generate.column", "score.column"])
def test_withheld_answers_are_dropped(tmp_path: Path, model: dict[str, Any], uses: str) -> None:
    asked = {"uses": uses, "needs": "drawn", "with": {"model": "m", "prompt": "Say {{ n }}"}}
    recipe = Recipe.of("held", {"drawn": DRAWN, "asked": asked}, {"m": model})
    assert run(recipe, tmp_path / "store") is Exit.DONE
    assert counts(recipe, tmp_path / "store")["asked"][3] == {"withheld": 3}
    documented = {"generate.column": column, "score.column": score}[uses].__doc__
    assert "`withheld`" in str(documented)
