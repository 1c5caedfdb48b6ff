"""vLLM's own server under the `openai` engine: started, used through a faulty proxy, stopped."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models import Decoding, LanguageModel, Limits, Request
from pipeline.models.engines.registry import close_engines, end_processes
from pipeline.models.engines.vllm_server import Server
from pipeline.models.journal.journal import Journal
from tests.pipeline.models.test_vllm import MODEL, OPTIONS, PYTHON
from tests.support.journals import max_answers
from tests.support.serving import FAULTS, FakeServer, forward_to, listening

pytestmark = pytest.mark.proof

SERVED = replace(MODEL, engine="openai", serve=True, dtype="float32", engine_options=OPTIONS)


@pytest.fixture(scope="module", autouse=True)
def real_vllm() -> Iterator[None]:
    if not PYTHON.exists():
        pytest.skip("needs vLLM: make vllm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        yield
        close_engines()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the tests that attach to it."""
    running = Server(SERVED, tmp_path_factory.mktemp("server") / "vllm.log")
    yield running
    running.close()


def attached(server: Server, patch: pytest.MonkeyPatch, port: int | None = None) -> LanguageModel:
    """The served model as somebody else's, by its address, its name and the key it wants."""
    patch.setenv("TEST_VLLM_KEY", server.key)
    url = server.base_url if port is None else f"http://127.0.0.1:{port}/v1"
    return LanguageModel(
        *(server.name, "openai"),
        base_url=url,
        api_key_env="TEST_VLLM_KEY",
        limits=Limits(timeout=20.0),
    )


def questions(count: int) -> list[Request]:
    return [Request((("user", f"Name {i} seas."),), Decoding(max_tokens=4)) for i in range(count)]


def test_a_server_is_started_asked_and_stopped(tmp_path: Path) -> None:
    """Its answers are those of any engine with these weights, so they are not requested again."""
    ctx = Context.scratch(tmp_path)
    requests = questions(12)
    schema = json.dumps({"type": "object", "properties": {"sea": {"type": "string"}}})
    warm = Decoding(max_tokens=6, temperature=1.0)
    more = [
        Request("The sea", replace(warm, choice=("Yes", "No"), logprobs=3), sample=1),
        Request("The sea", replace(warm, choice=("Yes", "No"), logprobs=3), sample=2),
        Request("The sea", Decoding(max_tokens=96, json_schema=schema)),
        *(Request("The sea", warm, sample=n) for n in range(6)),
    ]
    engine = ctx.open(SERVED)
    answers = engine.generate([*requests, *more])
    assert all(answer.error is None for answer in answers)
    yes, no, formed, *free = answers[12:]
    assert {yes.text, no.text} <= {"Yes", "No"}
    assert all(len(entry.top) == 3 for entry in yes.logprobs)
    assert isinstance(json.loads(formed.text), dict)
    assert len({answer.text for answer in free}) > 2
    url = engine._remote._server.base_url  # type: ignore[attr-defined]
    end_processes()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url, timeout=5)
    elsewhere = replace(SERVED, engine="transformers", serve=False, engine_options={})
    assert ctx.open(elsewhere).generate(requests) == answers[:12]
    assert max_answers(Journal(ctx.store / "journal")) == 1


def test_faults_on_the_way_to_a_real_server_change_nothing(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = questions(150)
    fine = Context.scratch(tmp_path / "fine").open(attached(server, monkeypatch)).generate(requests)
    assert all(answer.error is None for answer in fine)
    close_engines()
    port_of_server = int(server.base_url.split(":")[2].split("/")[0])
    proxy = FakeServer(forward_to(port_of_server), faults=tuple(FAULTS))
    with listening(proxy) as port:
        model = attached(server, monkeypatch, port)
        answers = Context.scratch(tmp_path / "faulty").open(model).generate(requests)
        close_engines()
    assert [a.text for a in answers] == [a.text for a in fine]
    assert set(FAULTS) == set(proxy.faults_made), "a kind of fault did not occur"
    assert len(proxy.answered) == proxy.answered.total() == len(requests)
    journal = Journal(tmp_path / "faulty/store/journal")
    assert (journal.count(), max_answers(journal)) == (150, 1)


def test_a_server_of_ours_wants_a_key_that_reaches_no_file(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = attached(server, monkeypatch)
    monkeypatch.setenv("TEST_VLLM_KEY", "wrong-key-that-nobody-may-see")
    engine = Context.scratch(tmp_path / "wrong").open(model)
    with pytest.raises(UserError):
        engine.generate(questions(1))
    close_engines()
    monkeypatch.setenv("TEST_VLLM_KEY", server.key)
    Context.scratch(tmp_path / "right").open(model).generate(questions(3))
    texts = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    texts.append(server.log.read_bytes())
    assert texts
    for secret in (server.key, "wrong-key-that-nobody-may-see"):
        assert not any(secret.encode() in text for text in texts)
    close_engines()


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    wrong = replace(SERVED, engine_options={**OPTIONS, "max_model_len": "many"})
    with pytest.raises(UserError, match="does not start") as error:
        Server(wrong, tmp_path / "log")
    assert "max-model-len" in str(error.value.why) + (tmp_path / "log").read_text()
    assert os.path.exists(tmp_path / "log")
