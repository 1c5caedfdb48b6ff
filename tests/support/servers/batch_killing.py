"""An engine that asks in batches and is killed at its n-th step: every instant that matters.

Counted are the moments before and after each exchange with the server and each write to the
journal. One process imports what is needed once, and runs a child of its own for each kill.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from pipeline.stage import ROOT
from tests.support.running import environment

REQUESTS = 6


@contextmanager
def killer(port: int, provider: str) -> Iterator[Callable[[int | None, Path], bool]]:
    """A function that asks on a store until its n-th step; None: to the end.

    It returns whether it was killed before. At the end the answers are in `texts.json`.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.servers.batch_killing", str(port), provider],
        cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin
    assert process.stdout

    def killed_at(number: int | None, folder: Path) -> bool:
        print(json.dumps([number, str(folder)]), file=process.stdin, flush=True)
        code = int(process.stdout.readline())  # type: ignore[union-attr]
        assert code in (0, -signal.SIGKILL)
        return code != 0

    try:
        yield killed_at
    finally:
        process.stdin.close()
        process.wait()


def _kill_at(number: int) -> None:
    """Count the moments around each exchange and each write, and kill this process at one."""
    from pipeline.models.http.client import HttpClient
    from pipeline.models.journal.batches import Batches
    from pipeline.models.journal.journal import Journal

    left = number

    def step() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            step()
            result = function(*arguments, **options)
            step()
            return result

        return call

    def counted_coroutine(function: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*arguments: Any, **options: Any) -> Any:
            step()
            result = await function(*arguments, **options)
            step()
            return result

        return call

    for name in ("request", "download"):
        setattr(HttpClient, name, counted_coroutine(getattr(HttpClient, name)))
    for name in ("begin", "note_file", "note_id", "note_progress", "end"):
        setattr(Batches, name, counted(getattr(Batches, name)))
    Journal.put_many = counted(Journal.put_many)  # type: ignore[method-assign]


def _run(port: int, provider: str, folder: Path) -> None:
    from pipeline.context import Context
    from pipeline.models import Api, Batching, Decoding, LanguageModel, Request
    from pipeline.models.base import Limits
    from pipeline.models.budget import Budget
    from pipeline.models.engines import batches
    from tests.support.servers import PRICE

    batches.GRACE, batches.FIRST_POLL = timedelta(seconds=0.3), 0.002
    model = LanguageModel(
        "plain", "openai", base_url=f"http://127.0.0.1:{port}/v1", price=PRICE,
        batch=Batching(poll=0.01, max_requests=4), limits=Limits(patience=5.0),
        api=Api(provider=provider),  # type: ignore[arg-type]
    )  # fmt: skip
    ctx = Context.scratch(folder)
    ctx.budget = Budget((), "recipe", "stage")
    decoding = Decoding(max_tokens=60)
    prompts = [f"Name the sea number {i} of {folder.name}." for i in range(REQUESTS)]
    answers = ctx.open(model).generate([Request((("user", p),), decoding) for p in prompts])
    texts = [answer.text for answer in answers if answer.error is None]
    (folder / "texts.json").write_text(json.dumps(texts))


def _serve(port: int, provider: str) -> None:
    import httpx2 as httpx2  # what a child would import

    from pipeline.models.engines import batches as batches
    from pipeline.models.engines import openai as openai
    from pipeline.models.http.batches import calls as calls
    from tests.support import servers as servers

    for line in sys.stdin:
        number, folder = json.loads(line)
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            if number is not None:
                _kill_at(number)
            _run(port, provider, Path(folder))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    _serve(int(sys.argv[1]), sys.argv[2])
