"""vLLM in a process of its own: requests come in on stdin, answers go out on stdout.

This file runs under whatever interpreter has vLLM, perhaps of another environment,
so it imports the standard library and vLLM only, and nothing of Gristmill. The
protocol is one JSON object a line. First in: `{"options": ...}`, arguments of vLLM's
engine; the answer is `{"ready": ...}` or `{"fatal": "why"}`. Then in:
`{"id", "tokens", "sampling"}`, and out, as soon as each is done and in any order:
`{"id", "response"}` or `{"id", "error"}`.

When stdin ends, nobody is left to answer: the process goes after the step that it is
in, and so do those that vLLM has for tensor parallelism. What has not gone by then is
killed: all of them are one group, which whoever starts this process gives it.
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
LineProgress = queue.SimpleQueue[Message | None]
"""Requests as they came; None: there are no more, and nobody wants the answers."""

_LEAVE = 10.0
"""Seconds that vLLM has to end by itself."""


def main() -> None:
    """Serve requests until stdin ends."""
    out = _claim_stdout()
    lines: LineProgress = queue.SimpleQueue()
    options = json.loads(sys.stdin.readline())["options"]
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    try:
        engine = _engine(options)
    except Exception as error:
        _say(out, fatal=f"{type(error).__name__}: {error}")
        sys.exit(1)
    _say(out, ready={"max_model_len": engine.vllm_config.model_config.max_model_len})
    with contextlib.suppress(BrokenPipeError):  # nobody reads any more
        while _take(engine, lines, out):
            for output in engine.step():
                if output.finished:
                    _say(out, id=output.request_id, response=_response(output))
    engine.engine_core.shutdown()
    os._exit(0)


def _claim_stdout() -> TextIO:
    """Keep stdout for the protocol: whatever libraries print goes to stderr."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return out


def _say(out: TextIO, **message: Any) -> None:
    out.write(json.dumps(message) + "\n")
    out.flush()


def _read(lines: LineProgress) -> None:
    for line in sys.stdin:
        lines.put(json.loads(line))
    lines.put(None)
    time.sleep(_LEAVE)
    # A thread cannot end the process any other way while vLLM is at work.
    os.killpg(0, signal.SIGKILL)


def _engine(options: Message) -> Any:
    from vllm import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    return LLMEngine.from_engine_args(EngineArgs(**options))


def _take(engine: Any, lines: LineProgress, out: TextIO) -> bool:
    """Hand over all requests that have come; wait for one where there is nothing to do.

    False: there will be no more.
    """
    for message in _waiting(lines, idle=not engine.has_unfinished_requests()):
        if message is None:
            return False
        try:
            prompt = {"prompt_token_ids": message["tokens"]}
            lora = _adapter(message["lora"]) if message.get("lora") else None
            engine.add_request(
                message["id"], prompt, _sampling(message["sampling"]), lora_request=lora
            )
        except Exception as error:  # vLLM refuses this one request; the others go on
            _say(out, id=message["id"], error=str(error))
    return True


def _waiting(lines: LineProgress, idle: bool) -> Iterator[Message | None]:
    if idle:
        yield lines.get()
    while True:
        try:
            yield lines.get_nowait()
        except queue.Empty:
            return


def _adapter(folder: str) -> Any:
    from vllm.lora.request import LoRARequest

    return LoRARequest("adapter", 1, folder)


def _sampling(sampling: Message) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    guide = {name: sampling.pop(name) for name in ("choice", "json") if name in sampling}
    if guide:
        sampling["structured_outputs"] = StructuredOutputsParams(**guide)
    return SamplingParams(**sampling)


def _response(output: Any) -> Message:
    """The answer as an OpenAI-compatible server would give it, its first choice alone."""
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
        response["logprobs"] = [_logprobs(token, found) for token, found in pairs]
    return response


def _logprobs(token: int, found: dict[int, Any]) -> list[Any]:
    """A token, its log-probability and the most probable ones, best first.

    The token itself comes last where it is none of the most probable.
    """
    ranked = sorted(found.values(), key=lambda entry: entry.rank)
    own = found[token]
    return [own.decoded_token, own.logprob, [[e.decoded_token, e.logprob] for e in ranked]]


if __name__ == "__main__":
    main()
