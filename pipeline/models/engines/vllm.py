"""The offline vLLM engine: for writing much text on a GPU, in a process of its own.

The process is started with the first request that has no answer yet, so a run that
finds all of them in the journal starts nothing. It ends with the stage, and its
memory is free for the next one. It may run under another environment's interpreter
(`python:`), since vLLM pins its own versions of what Gristmill uses; see
`vllm_worker.py` for what the two say to each other. Prompts are rendered and
tokenized here, so that keys are those of every other local engine.

vLLM batches as requests come and makes no promise about the last bits: here the
journal is the truth, and a request's seed only makes a repetition likely.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models.base import Completion, Decoding, LanguageModel, Request, Scored
from pipeline.models.journal.journal import Journal
from pipeline.models.journal.requests import Batch, Failure, Gate, Prepared, complete, prepare
from pipeline.models.local.chat_template import context_tokens, load_tokenizer, source

IN_FLIGHT: Final = 4096
"""Requests that vLLM holds at once: many times what it computes together, so it never waits."""

_SHARE: Final = 0.92
"""The part of a GPU's memory that vLLM takes where it is not told otherwise."""

_LEAVE: Final = 20.0
"""Seconds that the process has to leave by itself when it is no longer needed."""

_TOLD: Final = 400
"""Characters of what an error tells of another one."""

_RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks of adapters that vLLM can make room for."""

HINT: Final = (
    "python: PATH names an interpreter that has vLLM; engine_options are its own arguments"
)
"""What to do about a vLLM that does not start."""

_RAISED: Final = re.compile(
    r"^(?:\(.*?\) |.*?\] )?(?:\w+\.)*(\w+(?:Error|Exception): .+(?:\n  \S.*)?)", re.MULTILINE
)
_POINTER: Final = "See root cause above"

Message = dict[str, Any]


class Worker:
    """The process: started when made, ended by `close` or by our own end.

    Raises UserError when vLLM cannot be started, or when it ends before its time.
    """

    def __init__(self, model: LanguageModel, log: Path) -> None:
        self.log = log
        script = Path(__file__).with_name("vllm_worker.py")
        with log.open("ab") as errors:
            self._begin = errors.tell()
            self._process = subprocess.Popen(
                # -I: the folder of the script and its modules stay out of the other's imports.
                [interpreter(model), "-I", str(script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment(model),
                encoding="utf-8",
                start_new_session=True,
            )
        self._lines: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        self.put(options=engine_arguments(model))
        ready = self.take()[0]
        if "ready" not in ready:
            self._fail(ready.get("fatal", "it gave no reason"))

    def put(self, **message: Any) -> None:
        """Send one message."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._fail(None)

    def take(self) -> list[Message]:
        """All messages that are there; waits for the first."""
        found = [self._lines.get()]
        while not self._lines.empty():
            found.append(self._lines.get())
        messages = [message for message in found if message is not None]
        return messages or self._fail(None)

    def close(self) -> None:
        """End the process and give its memory back."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is gone, with unsent lines
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_LEAVE)
        self._kill()

    def _kill(self) -> int:
        """End whatever is left of it: with tensor parallelism it has processes of its own."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(json.loads(line))
        self._lines.put(None)

    def _fail(self, why: str | None) -> NoReturn:
        status = self._kill()
        ended = f"exit status {status}; {last_words(self.log, self._begin)}"
        raise UserError(
            "vLLM ended before its work was done" if why is None else "vLLM does not start",
            where=str(self.log),
            why=ended if why is None or _POINTER in why else reason(why),
            hint="mend that and run again: answers that came are kept; " + HINT,
        )


def last_words(log: Path, begin: int) -> str:
    """What a process that has ended wrote last into its log, behind the first `begin` bytes."""
    written = log.read_bytes()[begin:].decode("utf-8", "replace").strip()
    return f"its last words: {reason(written)}" if written else "it said nothing"


def reason(text: str) -> str:
    """What the text of an error, or a log, comes down to: the last error that it tells, in a line.

    That of an error which only points to another one above it is passed over, as are
    pydantic's words around the message of a validator. Without any it is the last line.
    """
    raised = [told for told in _RAISED.findall(text) if _POINTER not in told]
    first, _, second = (raised or text.strip().splitlines())[-1].partition("\n")
    validator = second.strip().removeprefix("Value error, ").partition(" [type=")[0]
    return (validator if "validation error" in first else first)[-_TOLD:]


def interpreter(model: LanguageModel) -> str:
    """The Python that vLLM runs under. Raises UserError if there is none at `python:`."""
    found = shutil.which(model.python or sys.executable)
    if found is None:
        raise UserError(
            "there is no such interpreter",
            where=f"python: {model.python}",
            hint="name the python of an environment that has vLLM; `make vllm` makes one",
        )
    return found


def environment(model: LanguageModel) -> dict[str, str]:
    """The environment of a vLLM process: this one's, with nothing reported to anybody."""
    given = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if model.engine_options.get("tensor_parallel_size", 1) == 1:
        # It is a process of its own already; another one inside would outlive a kill.
        given["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    return given | os.environ


def engine_arguments(model: LanguageModel) -> Message:
    """The arguments of vLLM's engine; the recipe's `engine_options` come last and win."""
    found = source(model)
    arguments: Message = {
        "model": found["pretrained_model_name_or_path"],
        "tokenizer": model.tokenizer,
        "revision": found.get("revision"),
        "dtype": model.dtype,
        **(_adapter_arguments(model.lora) if model.lora else {}),
        # White space without end would be valid JSON, too.
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
    }
    given = {name: value for name, value in arguments.items() if value is not None}
    return given | dict(model.engine_options)


def _adapter_arguments(folder: str) -> Message:
    """Room for the adapter: without it, vLLM refuses those of more than rank 16, row by row."""
    config = Path(folder) / "adapter_config.json"
    if not config.is_file():
        return {"enable_lora": True}
    rank = json.loads(config.read_text("utf-8"))["r"]
    return {"enable_lora": True, "max_lora_rank": next((r for r in _RANKS if r >= rank), rank)}


class Vllm:
    """A model that a process of vLLM can hold; the process is started when it is needed."""

    process = True

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.tokenizer = load_tokenizer(model)
        given = model.engine_options.get("max_model_len")
        self.context_tokens = given or context_tokens(model, self.tokenizer)
        self._worker: Worker | None = None

    def bind(self, model: LanguageModel, identity: dict[str, Any], ctx: Context) -> VllmEngine:
        return VllmEngine(self, model, identity, ctx)

    @property
    def share(self) -> float:
        """The part of a GPU's memory that its process takes."""
        return float(self.model.engine_options.get("gpu_memory_utilization", _SHARE))

    def worker(self, log: Path) -> Worker:
        """The running process. Others are ended where there is not memory for all."""
        if self._worker is None:
            while _running and sum(other.share for other in _running) + self.share > 1:
                _running[0].close()
            self._worker = Worker(self.model, log)
            _running.append(self)
        return self._worker

    def close(self) -> None:
        if self._worker is not None:
            _running.remove(self)
            self._worker.close()
            self._worker = None


_running: list[Vllm] = []
"""The models that have a process now, the first started first."""


class VllmEngine:
    """vLLM as one stage sees it: bound to a journal and to counters."""

    def __init__(
        self, loaded: Vllm, model: LanguageModel, identity: dict[str, Any], ctx: Context
    ) -> None:
        self.tokenizer = loaded.tokenizer
        self.context_tokens = loaded.context_tokens
        self._loaded, self._model, self._identity, self._ctx = loaded, model, identity, ctx

    @cached_property
    def _journal(self) -> Journal:
        return Journal(self._ctx.store / "journal")

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """The completions, in the order of the requests; see `pipeline.models.journal.requests`."""
        prepared = [
            prepare(r, self._identity, self.tokenizer, self.context_tokens) for r in requests
        ]
        return complete(prepared, self._journal, self._send, self._ctx, self._model.price)

    def loglikelihood(self, sequences: Sequence[Scored]) -> list[NDArray[np.float32]]:
        """Not here: vLLM builds a matrix of tokens by vocabulary to score a prompt."""
        raise UserError(
            f"vLLM does not score likelihoods, and {len(sequences)} are asked for",
            where=self._model.model,
            why="it would hold the probabilities of the whole vocabulary for every token",
            hint="name the same model once more with engine: transformers, for scoring",
        )

    def _send(self, prepared: list[Prepared], gate: Gate) -> Iterator[Batch]:
        """Keep vLLM full; yield answers as they come. It cuts its own batches."""
        worker = self._loaded.worker(self._ctx.work / "vllm.log")
        left = deque(row for row in prepared if row.key in gate.missing)
        sent: dict[str, Prepared] = {}
        while left or sent:
            while left and len(sent) < IN_FLIGHT and gate.admit(left[0]):
                row = left.popleft()
                sent[row.key] = row
                worker.put(
                    id=row.key,
                    tokens=row.tokens,
                    sampling=sampling(row.decoding, row.seed),
                    lora=self._model.lora,
                )
            if not sent:
                return
            yield [_answer(sent.pop(message["id"]), message) for message in worker.take()]


def sampling(decoding: Decoding, seed: int) -> Message:
    """The request's decoding under vLLM's names."""
    found: Message = {
        "max_tokens": decoding.max_tokens,
        "temperature": decoding.temperature,
        "top_p": decoding.top_p,
        "top_k": decoding.top_k or 0,
        "presence_penalty": decoding.presence_penalty,
        "frequency_penalty": decoding.frequency_penalty,
        "stop": list(decoding.stop),
        "seed": seed,
    }
    if decoding.logprobs:
        found["logprobs"] = decoding.logprobs
    if decoding.choice:
        found["choice"] = list(decoding.choice)
    elif decoding.json_schema is not None:
        found["json"] = decoding.json_schema
    return found


def _answer(row: Prepared, message: Message) -> tuple[Prepared, Message | Failure]:
    if "error" in message:
        return row, Failure(message["error"])
    response: Message = message["response"]
    for entry in response.get("logprobs", ()):
        entry[2] = entry[2][: row.decoding.logprobs]
    return row, response


def load(model: LanguageModel) -> Vllm:
    """The model, its process not yet started. Raises UserError for one that is not there."""
    return Vllm(model)
