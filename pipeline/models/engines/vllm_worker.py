"""vLLM in a process of its own: requests come in on stdin, answers go out on stdout.

This file runs under whatever interpreter has vLLM, perhaps of another environment, so it
imports the standard library and vLLM only, and nothing of Gristmill. The protocol is one
JSON object a line. First in: `{"options": ...}`, the arguments of vLLM's engine; the
answer is `{"ready": ...}` or `{"fatal": "why"}`. Then in: `{"id", "tokens", "sampling"}`,
and out, as soon as each is done and in any order: `{"id", "response"}` or `{"id", "error"}`.

When stdin ends, nobody waits for answers any more: the process ends after its current
step, and with it vLLM's processes for tensor parallelism. What has not ended by then is
killed: all of them are one process group, which the starter creates.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, TextIO

Message = dict[str, Any]
Inbox = queue.SimpleQueue[Message | None]
"""Requests as they came; None when stdin has ended."""

_EXIT_TIMEOUT = 10.0
"""Seconds that vLLM has to end by itself."""


def main() -> None:
    """Serve requests until stdin ends."""
    out = _claim_stdout()
    inbox: Inbox = queue.SimpleQueue()
    options = json.loads(sys.stdin.readline())["options"]
    threading.Thread(target=_read, args=(inbox,), daemon=True).start()
    try:
        engine = _engine(options)
    except Exception as error:
        _send(out, fatal=f"{type(error).__name__}: {error}")
        sys.exit(1)
    _send(out, ready={"max_model_len": engine.vllm_config.model_config.max_model_len})
    with contextlib.suppress(BrokenPipeError):  # the starter has ended
        while _add_requests(engine, inbox, out):
            for output in engine.step():
                if output.finished:
                    _send(out, id=output.request_id, response=_response(output))
    engine.engine_core.shutdown()
    os._exit(0)


def _claim_stdout() -> TextIO:
    """Keep stdout for the protocol: what libraries print goes to stderr."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return out


def _send(out: TextIO, **message: Any) -> None:
    out.write(json.dumps(message) + "\n")
    out.flush()


def _read(inbox: Inbox) -> None:
    for line in sys.stdin:
        inbox.put(json.loads(line))
    inbox.put(None)
    time.sleep(_EXIT_TIMEOUT)
    # A thread cannot end the process in any other way while vLLM computes.
    os.killpg(0, signal.SIGKILL)


def _engine(options: Message) -> Any:
    from vllm import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    return LLMEngine.from_engine_args(EngineArgs(**options))


def _add_requests(engine: Any, inbox: Inbox, out: TextIO) -> bool:
    """Give vLLM all requests that have come; wait for one if it has nothing to do.

    Returns:
        False once stdin has ended.
    """
    for message in _messages(inbox, idle=not engine.has_unfinished_requests()):
        if message is None:
            return False
        try:
            prompt = {"prompt_token_ids": message["tokens"]}
            lora = _adapter(message["lora"]) if message.get("lora") else None
            engine.add_request(
                message["id"], prompt, _sampling(message["sampling"]), lora_request=lora
            )
        except Exception as error:  # vLLM refuses this request only
            _send(out, id=message["id"], error=str(error))
    return True


def _messages(inbox: Inbox, idle: bool) -> Iterator[Message | None]:
    if idle:
        yield inbox.get()
    while True:
        try:
            yield inbox.get_nowait()
        except queue.Empty:
            return


def _adapter(folder: str) -> Any:
    from vllm.lora.request import LoRARequest

    return LoRARequest("adapter", 1, folder)


def _sampling(sampling: Message) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    structure = {name: sampling.pop(name) for name in ("choice", "json") if name in sampling}
    if structure:
        sampling["structured_outputs"] = StructuredOutputsParams(**structure)
    return SamplingParams(**sampling)


def _response(output: Any) -> Message:
    """The answer in the form of `pipeline/models/journal/responses.py`."""
    answer = output.outputs[0]
    response: Message = {
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "usage": {
            "prompt_tokens": len(output.prompt_token_ids),
            "completion_tokens": len(answer.token_ids),
        },
    }
    if answer.logprobs is not None:
        pairs = zip(answer.token_ids, answer.logprobs, strict=True)
        response["logprobs"] = [_logprobs(token, top) for token, top in pairs]
    return response


def _logprobs(token: int, top: dict[int, Any]) -> list[Any]:
    """A token, its log-probability and the most probable tokens with theirs, best first.

    The token itself comes last if it is not among the most probable ones.
    """
    ranked = sorted(top.values(), key=lambda entry: entry.rank)
    chosen = top[token]
    return [chosen.decoded_token, chosen.logprob, [[e.decoded_token, e.logprob] for e in ranked]]


if __name__ == "__main__":
    main()
