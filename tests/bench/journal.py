"""The journal's speed and the client's cost: 2,000 short prompts against a bare client.

The bare client is the openai package's own, in plain asyncio with a semaphore, at the
best of several concurrencies; ours adapts its concurrency by itself, and makes every
answer durable. `compare` also serves to race against a real server.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.context import Context
from pipeline.models import Decoding, LanguageModel, Limits, Request
from pipeline.models.engines.registry import close_engines
from pipeline.models.journal.journal import Journal, JournalEntry
from tests.bench.table import Line, bound

PROMPTS = 2000
DELAY = 0.1
"""Seconds that the fake server takes for an answer."""
CONCURRENCIES = (64, 128, 256)
KEY = "GRISTMILL_BENCH_KEY"
"""The environment variable that holds the server's key."""
FEW, MANY = 10_000, 1_000_000
"""Entries of a small journal and of a large one."""
LOOK_UPS = {"look-up of 500 random keys": None, "look-up of a stage's 5,000": 5000}
"""Keys from all over the journal, or all of one stage, which are adjacent; in random order."""


def measure(folder: Path) -> list[Line]:
    """All rows of this section; the folder's disk must hold a journal of 10^6 entries."""
    with tempfile.TemporaryDirectory(dir=folder) as work_dir:
        return [*journal(Path(work_dir)), *client(Path(work_dir))]


def journal(folder: Path) -> list[Line]:
    """Writing in batches as an engine does, and looking up among few and among many."""
    rng = random.Random(0)
    write(folder, 0, FEW)
    few = {kind: look_up(folder, FEW, size, rng) for kind, size in LOOK_UPS.items()}
    rate = write(folder, FEW, MANY)
    many = {kind: look_up(folder, MANY, size, rng) for kind, size in LOOK_UPS.items()}
    return [
        Line(
            "journal, responses made durable", f"{rate:,.0f} /s", demanded=">= 10,000 /s",
            met=rate >= 10_000, outcome="up to 10^6 entries",
        ),
        *(
            bound(f"journal, {kind}, among 10^6 against 10^4", many[kind] / few[kind], "x", 2.0,
                  f"{few[kind] * 1e6:.0f} and {many[kind] * 1e6:.0f} us a key")
            for kind in LOOK_UPS
        ),
    ]  # fmt: skip


def key(number: int) -> str:
    """A key without order, as digests are."""
    return f"{number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128:032x}"


def write(folder: Path, start: int, stop: int, batch: int = 1000) -> float:
    """Write entries of 700 bytes; how many a second."""
    opened = Journal(folder / "journal")
    began = time.perf_counter()
    for first in range(start, stop, batch):
        opened.put_many(
            JournalEntry(key(i), "p" * 400, {"text": "t" * 280, "n": i})
            for i in range(first, first + batch)
        )
    seconds = time.perf_counter() - began
    opened.close()
    return (stop - start) / seconds


def look_up(folder: Path, count: int, stage: int | None, rng: random.Random) -> float:
    """Seconds for one key; the best of many look-ups, each in a journal just opened.

    A run opens the journal and looks up each key once. With one connection for all
    look-ups, a small journal would be in its cache completely and a large one hardly, and
    the caches would be compared.
    """
    times = []
    for _ in range(20):
        if stage is None:
            numbers = [rng.randrange(count) for _ in range(500)]
        else:
            first = rng.randrange(count - stage + 1)
            numbers = rng.sample(range(first, first + stage), stage)
        keys = [key(number) for number in numbers]
        opened = Journal(folder / "journal")
        began = time.perf_counter()
        responses = opened.get_many(keys)
        times.append((time.perf_counter() - began) / len(keys))
        opened.close()
        assert all(responses[key(number)]["n"] == number for number in numbers)
    return min(times)


class Measured(NamedTuple):
    """Requests a second, and seconds of this process's CPU for one request."""

    rate: float
    cpu: float


def client(folder: Path) -> list[Line]:
    """Ours and the bare client, in turn."""
    call = [sys.executable, str(Path(__file__).with_name("answering.py")), str(DELAY)]
    server = subprocess.Popen(call, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        base_url = f"http://127.0.0.1:{server.stdout.readline().strip()}/v1"
        prompts = [f"Name {i} seas and a lake." for i in range(PROMPTS)]
        ours, bare, best = compare(base_url, "m", prompts, folder)
    finally:
        server.kill()
        server.wait()
    ratio = ours.rate / bare.rate
    return [
        Line(
            f"{PROMPTS:,} short prompts over HTTP, journalled", f"{ours.rate:,.0f} /s",
            f"bare client at {best}", f"{bare.rate:,.0f} /s", f"{ratio:.2f} x", ">= 0.9 x",
            met=ratio >= 0.9,
        ),
        Line(
            "  CPU a request", f"{ours.cpu * 1e3:.2f} ms", "bare client",
            f"{bare.cpu * 1e3:.2f} ms", f"{bare.cpu / ours.cpu:.2f} x",
        ),
    ]  # fmt: skip


def compare(
    base_url: str,
    name: str,
    prompts: list[str],
    folder: Path,
    tokens: int = 64,
    rounds: int = 3,
    key: str = "not-wanted",
) -> tuple[Measured, Measured, int]:
    """Measure our client and the bare one.

    First the bare client's best concurrency is searched; then the two take turns, and the
    round with the median ratio counts: other load of the machine affects both clients of a
    round alike.

    Args:
        base_url: Address of the server.
        name: What the server calls the model.
        prompts: The prompts, each sent once by each client and round.
        folder: Where the journals of our client are.
        tokens: Tokens of an answer at most.
        rounds: Number of rounds.
        key: The server's key.

    Returns:
        Our client's speed, the bare client's at its best concurrency, and that concurrency.
    """

    def bare(concurrency: int) -> Measured:
        seconds, cpu = _timed(
            lambda: asyncio.run(_bare(base_url, name, prompts, concurrency, tokens, key))
        )
        return Measured(len(prompts) / seconds, cpu / len(prompts))

    best = max(CONCURRENCIES, key=lambda concurrency: bare(concurrency).rate)
    pairs = [
        (_ours(base_url, name, prompts, folder / f"store-{turn}", tokens, key), bare(best))
        for turn in range(rounds)
    ]
    pairs.sort(key=lambda pair: pair[0].rate / pair[1].rate)
    return *pairs[rounds // 2], best


def _ours(
    base_url: str, name: str, prompts: list[str], folder: Path, tokens: int, key: str
) -> Measured:
    os.environ[KEY] = key
    limits = Limits(concurrency=max(CONCURRENCIES))
    model = LanguageModel(name, "openai", base_url=base_url, limits=limits, api_key_env=KEY)
    engine = Context.scratch(folder).open(model)
    requests = [Request((("user", text),), Decoding(max_tokens=tokens)) for text in prompts]
    answers: list[Any] = []
    seconds, cpu = _timed(lambda: answers.extend(engine.generate(requests)))
    assert not [answer for answer in answers if answer.error], "every prompt has its answer"
    assert Journal(folder / "store" / "journal").count() == len(prompts)
    close_engines()
    return Measured(len(prompts) / seconds, cpu / len(prompts))


async def _bare(
    base_url: str, name: str, prompts: list[str], concurrency: int, tokens: int, key: str
) -> None:
    from openai import AsyncOpenAI

    semaphore = asyncio.Semaphore(concurrency)
    async with AsyncOpenAI(base_url=base_url, api_key=key, max_retries=2) as api:

        async def answer_to(text: str) -> str | None:
            async with semaphore:
                answer = await api.chat.completions.create(
                    model=name,
                    messages=[{"role": "user", "content": text}],
                    max_tokens=tokens,
                    temperature=0.0,
                )
                return answer.choices[0].message.content

        answers = await asyncio.gather(*(answer_to(text) for text in prompts))
    assert all(answer is not None for answer in answers)


def _timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall-clock and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


if __name__ == "__main__":
    from tests.bench.table import render

    print(render(measure(Path(tempfile.gettempdir()))))
