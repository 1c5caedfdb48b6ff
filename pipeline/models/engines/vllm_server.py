"""Starting and stopping vLLM's OpenAI-compatible server for the length of a stage.

It listens on a free port of the loopback interface, with a key that only this
process knows, so that nobody else's requests reach it. It is ready when it answers
`/health`; how long it may take is up to the size of the model, so it is waited
for as long as the process lives.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pipeline.errors import UserError
from pipeline.models.base import LanguageModel
from pipeline.models.engines.vllm import (
    HINT,
    engine_arguments,
    environment,
    interpreter,
    last_words,
)

_POLL: Final = 0.25
_LEAVE: Final = 20.0
"""Seconds between two looks at a starting server, and those that a stopping one has to leave."""


class Server:
    """A running server. base_url: where it listens; key: what it wants to be shown.

    name: what it calls the model. Raises UserError when it cannot be started.
    """

    def __init__(self, model: LanguageModel, log: Path) -> None:
        self.name = model.served_name or "model"
        self.key = secrets.token_urlsafe(24)
        self.log = log
        port = _free_port()
        self.base_url = f"http://127.0.0.1:{port}/v1"
        script = Path(__file__).with_name("vllm_server.py")
        given = {"host": "127.0.0.1", "port": port, **_arguments(model, self.name)}
        with log.open("ab") as out:
            self._begin = out.tell()
            self._process = subprocess.Popen(
                [interpreter(model), "-I", str(script), *flags(given)],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
                # In the environment, where no list of processes shows it.
                env=environment(model) | {"VLLM_API_KEY": self.key},
                start_new_session=True,
            )
        self._wait_until_ready(f"http://127.0.0.1:{port}/health")

    def close(self) -> None:
        """Stop the server and all its processes."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_LEAVE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()

    def _wait_until_ready(self, url: str) -> None:
        while not _answers(url):
            if self._process.poll() is not None:
                raise UserError(
                    "vLLM's server does not start",
                    where=str(self.log),
                    why=f"exit status {self._process.returncode}; "
                    f"{last_words(self.log, self._begin)}",
                    hint=HINT,
                )
            time.sleep(_POLL)


def _arguments(model: LanguageModel, name: str) -> dict[str, Any]:
    given = engine_arguments(model)
    if model.lora is None:
        return given | {"served_model_name": name}
    # The adapter is a model of its own to the server, and the one that is asked.
    return given | {"served_model_name": f"{name}-base", "lora_modules": f"{name}={model.lora}"}


def flags(arguments: Mapping[str, Any]) -> Iterator[str]:
    """Arguments as vLLM's command line takes them: `--max-model-len 1024`, `--enforce-eager`."""
    for name, value in arguments.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            yield f"--{flag}" if value else f"--no-{flag}"
        else:
            yield f"--{flag}"
            yield value if isinstance(value, str) else json.dumps(value)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _answers(url: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
