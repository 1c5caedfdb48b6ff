"""The offline vLLM engine: for generating much text on a GPU, in a process of its own.

The process starts with the first request that has no answer yet, so a run that finds all
of them in the journal starts nothing. It ends with the stage, so its memory is free for
the next one. It may run under another environment's interpreter (`python:`), since vLLM
pins its own versions of what Gristmill uses; see `vllm_worker.py` for the protocol
between the two. Prompts are rendered and tokenized here, so keys are those of every other
local engine.

vLLM batches requests as they come and does not promise equal last bits: here the journal
is the truth, and a request's seed only makes a repetition likely.
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
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.models.base import Decoding, EngineContext, LanguageModel, Scored
from pipeline.models.engines.journaled import JournaledEngine
from pipeline.models.journal.gate import Gate
from pipeline.models.journal.requests import Batch, Failure, PreparedRequest
from pipeline.models.local.chat_template import source
from pipeline.models.local.rendering import Rendering
from schemas.reasoning import CONTROL_TOKENS

IN_FLIGHT: Final = 4096
"""Requests that vLLM holds at once: many times what it computes together, so it never waits."""

_MEMORY_FRACTION: Final = 0.92
"""vLLM's own default for gpu_memory_utilization."""

_EXIT_TIMEOUT: Final = 20.0
"""Seconds that the process has to end by itself when it is no longer needed."""

_MAX_REASON: Final = 400
"""Characters of another program's error that an error of ours shows."""

_LORA_RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values of max_lora_rank that vLLM accepts."""

HINT: Final = (
    "python: PATH names an interpreter that has vLLM; engine_options are its own arguments"
)
"""What to do if vLLM does not start."""

_ERROR_LINE: Final = re.compile(
    r"^(?:\(.*?\) |.*?\] )?(?:\w+\.)*(\w+(?:Error|Exception): .+(?:\n  \S.*)?)", re.MULTILINE
)
"""An error at the beginning of a log's line, behind prefixes, with an indented second line."""
_SEE_ABOVE: Final = "See root cause above"

Message = dict[str, Any]


class Worker:
    """vLLM's process; it ends with `close`, or when this process ends.

    Args:
        model: The model that it loads.
        log: The file for its output.

    Raises:
        UserError: vLLM cannot be started, or ends while requests are open. So do the
            methods `send` and `receive`.
    """

    def __init__(self, model: LanguageModel, log: Path) -> None:
        self.log = log
        script = Path(__file__).with_name("vllm_worker.py")
        with log.open("ab") as errors:
            self._log_start = errors.tell()
            self._process = subprocess.Popen(
                # -I: the script's folder and its modules are not importable there.
                [interpreter(model), "-I", str(script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment(model),
                encoding="utf-8",
                start_new_session=True,
            )
        self._messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        self.send(options=engine_arguments(model))
        first = self.receive()[0]
        if "ready" not in first:
            self._fail(first.get("fatal", "it gave no reason"))

    def send(self, **message: Any) -> None:
        """Send one message."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._fail(None)

    def receive(self) -> list[Message]:
        """Wait for a message and take all that are there."""
        received = [self._messages.get()]
        while not self._messages.empty():
            received.append(self._messages.get())
        messages = [message for message in received if message is not None]
        return messages or self._fail(None)

    def close(self) -> None:
        """End the process and free its memory."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, with unsent lines
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_EXIT_TIMEOUT)
        self._kill()

    def _kill(self) -> int:
        """Kill its process group: with tensor parallelism it has processes of its own."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._messages.put(json.loads(line))
        self._messages.put(None)

    def _fail(self, why: str | None) -> NoReturn:
        status = self._kill()
        ended = f"exit status {status}; {last_error(self.log, self._log_start)}"
        raise UserError(
            "vLLM ended before its work was done" if why is None else "vLLM does not start",
            where=str(self.log),
            why=ended if why is None or _SEE_ABOVE in why else reason(why),
            hint="fix that and run again: all answers so far are kept; " + HINT,
        )


def last_error(log: Path, start: int) -> str:
    """The last error in the log of a process that has ended, after the first `start` bytes."""
    output = log.read_bytes()[start:].decode("utf-8", "replace").strip()
    return f"its last output: {reason(output)}" if output else "it wrote nothing"


def reason(text: str) -> str:
    """The last error in a traceback or a log, in one line; without any, the last line.

    Errors that only point to another one above are skipped, and pydantic's text around
    the message of a validator is removed.

    Example:
        >>> reason("Traceback:\\n  File 'a.py'\\nTypeError: 'a' is missing\\n")
        "TypeError: 'a' is missing"
    """
    errors = [error for error in _ERROR_LINE.findall(text) if _SEE_ABOVE not in error]
    first, _, second = (errors or text.strip().splitlines())[-1].partition("\n")
    validator = second.strip().removeprefix("Value error, ").partition(" [type=")[0]
    return (validator if "validation error" in first else first)[-_MAX_REASON:]


def interpreter(model: LanguageModel) -> str:
    """The path of the Python that vLLM runs under.

    Raises:
        UserError: The model's `python` is not an executable file.
    """
    path = shutil.which(model.python or sys.executable)
    if path is None:
        raise UserError(
            f"python must be an interpreter, got {model.python}",
            where=model.model,
            why="there is no such executable file",
            hint="name the python of an environment that has vLLM; `make vllm` makes one",
        )
    return path


def environment(model: LanguageModel) -> dict[str, str]:
    """The environment variables of a vLLM process: this one's, and no usage statistics."""
    defaults = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if model.engine_options.get("tensor_parallel_size", 1) == 1:
        # It is a process of its own already; another one inside would outlive a kill.
        defaults["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    return defaults | os.environ


def engine_arguments(model: LanguageModel) -> Message:
    """The arguments of vLLM's engine; the recipe's `engine_options` come last and win."""
    weights = source(model)
    arguments: Message = {
        "model": weights["pretrained_model_name_or_path"],
        "tokenizer": model.tokenizer,
        "revision": weights.get("revision"),
        "dtype": model.dtype,
        **(_adapter_arguments(model.lora) if model.lora else {}),
        # Endless white space would be valid JSON, too.
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
    }
    defaults = {name: value for name, value in arguments.items() if value is not None}
    return defaults | dict(model.engine_options)


def _adapter_arguments(folder: str) -> Message:
    """Memory for the adapter: without it, vLLM refuses each request if its rank is above 16."""
    config = Path(folder) / "adapter_config.json"
    if not config.is_file():
        return {"enable_lora": True}
    rank = json.loads(config.read_text("utf-8"))["r"]
    return {"enable_lora": True, "max_lora_rank": next((r for r in _LORA_RANKS if r >= rank), rank)}


class Vllm:
    """A model that a process of vLLM can load; the process starts when it is needed.

    Args:
        model: The model.

    Raises:
        UserError: The tokenizer cannot be loaded.
    """

    process = True

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.rendering = Rendering(model)
        self.tokenizer = self.rendering.tokenizer
        special = getattr(self.tokenizer, "all_special_tokens", ())
        self.marks_reasoning = not CONTROL_TOKENS.isdisjoint(special)
        self._worker: Worker | None = None

    def bind(
        self, model: LanguageModel, identity: dict[str, Any], ctx: EngineContext
    ) -> VllmEngine:
        """The engine for one stage; see `registry.Loaded`."""
        return VllmEngine(self, model, identity, ctx)

    @property
    def memory_fraction(self) -> float:
        """The fraction of a GPU's memory that its process reserves."""
        return float(self.model.engine_options.get("gpu_memory_utilization", _MEMORY_FRACTION))

    def worker(self, log: Path) -> Worker:
        """The running process; others are ended if there is not memory for all.

        Args:
            log: The file for the output of a process that is started.
        """
        if self._worker is None:
            used = self.memory_fraction
            while _running and sum(other.memory_fraction for other in _running) + used > 1:
                _running[0].close()
            self._worker = Worker(self.model, log)
            _running.append(self)
        return self._worker

    def close(self) -> None:
        """End the process, if it is running."""
        if self._worker is not None:
            _running.remove(self)
            self._worker.close()
            self._worker = None


_running: list[Vllm] = []
"""The models that have a process now, in the order in which they were started."""


class VllmEngine(JournaledEngine):
    """vLLM as one stage sees it.

    Args:
        loaded: The model with its process.
        model: The model, as the stage names it.
        identity: The identity of the model.
        ctx: The store, the budget and the counters of the stage.
    """

    def __init__(
        self, loaded: Vllm, model: LanguageModel, identity: dict[str, Any], ctx: EngineContext
    ) -> None:
        super().__init__(loaded.rendering, model, identity, ctx)
        self._loaded = loaded

    def loglikelihood(self, sequences: Sequence[Scored]) -> list[NDArray[np.float32]]:
        """Not here: vLLM builds a matrix of tokens by vocabulary to score a prompt."""
        raise UserError(
            f"vLLM does not score likelihoods, got {len(sequences)} sequences to score",
            where=self._model.model,
            why="it would hold the probabilities of all tokens of the vocabulary for every token",
            hint="name the same model once more with engine: transformers, for scoring",
        )

    def _send(self, prepared: list[PreparedRequest], gate: Gate) -> Iterator[Batch]:
        """Keep vLLM busy and yield answers as they come; vLLM forms the batches."""
        worker = self._loaded.worker(self._ctx.work / "vllm.log")
        remaining = deque(request for request in prepared if request.key in gate.missing)
        sent: dict[str, PreparedRequest] = {}
        shown = {"skip_special_tokens": False} if self._loaded.marks_reasoning else {}
        while remaining or sent:
            while remaining and len(sent) < IN_FLIGHT and gate.admit(remaining[0]):
                request = remaining.popleft()
                sent[request.key] = request
                worker.send(
                    id=request.key,
                    tokens=request.tokens,
                    sampling=sampling(request.decoding, request.seed) | _stops(request) | shown,
                    lora=self._model.lora,
                )
            if not sent:
                return
            yield [_answer(sent.pop(message["id"]), message) for message in worker.receive()]


def sampling(decoding: Decoding, seed: int) -> Message:
    """The request's decoding under the names of vLLM's SamplingParams."""
    parameters: Message = {
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
        parameters["logprobs"] = decoding.logprobs
    if decoding.choice:
        parameters["choice"] = list(decoding.choice)
    elif decoding.json_schema is not None:
        parameters["json"] = decoding.json_schema
    return parameters


def _stops(request: PreparedRequest) -> Message:
    """Stop texts that are control tokens, by id: vLLM leaves them out of the text it searches."""
    return {"stop_token_ids": list(request.stop_tokens)} if request.stop_tokens else {}


def _answer(
    request: PreparedRequest, message: Message
) -> tuple[PreparedRequest, Message | Failure]:
    if "error" in message:
        return request, Failure(message["error"])
    response: Message = message["response"]
    for entry in response.get("logprobs", ()):
        entry[2] = entry[2][: request.decoding.logprobs]
    return request, response


def load(model: LanguageModel) -> Vllm:
    """A model for vLLM; its process is not started yet.

    Raises:
        UserError: The tokenizer cannot be loaded.
    """
    return Vllm(model)
