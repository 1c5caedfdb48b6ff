"""Starting and stopping vLLM's OpenAI-compatible server for the length of a stage.

It listens on a free port of the loopback interface, with a key that only this process
knows, so that no other process can send it requests. It is ready when it answers
`/health`; how long that takes depends on the size of the model, so there is no timeout
as long as its process runs.
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
    last_error,
)

_POLL_INTERVAL: Final = 0.25
"""Seconds between two checks whether a starting server is ready."""
_EXIT_TIMEOUT: Final = 20.0
"""Seconds that the server has to end by itself before it is killed."""
_SCRIPT: Final = Path(__file__).with_name("vllm_server_main.py")


class Server:
    """A running server.

    Args:
        model: The model that it serves.
        log: The file for its output.

    Attributes:
        base_url: Where it listens.
        key: The key that it requires.
        name: What it calls the model.

    Raises:
        UserError: It cannot be started.
    """

    def __init__(self, model: LanguageModel, log: Path) -> None:
        self.name = model.served_name or "model"
        self.key = secrets.token_urlsafe(24)
        self.log = log
        port = _free_port()
        self.base_url = f"http://127.0.0.1:{port}/v1"
        arguments = {"host": "127.0.0.1", "port": port, **_arguments(model, self.name)}
        with log.open("ab") as out:
            self._log_start = out.tell()
            self._process = subprocess.Popen(
                [interpreter(model), "-I", str(_SCRIPT), *flags(arguments)],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
                # Not among the arguments, which any list of processes shows.
                env=environment(model) | {"VLLM_API_KEY": self.key},
                start_new_session=True,
            )
        self._wait_until_ready(f"http://127.0.0.1:{port}/health")

    def close(self) -> None:
        """Stop the server and all its processes."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_EXIT_TIMEOUT)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()

    def _wait_until_ready(self, url: str) -> None:
        while not is_ready(url):
            if self._process.poll() is not None:
                raise UserError(
                    "vLLM's server does not start",
                    where=str(self.log),
                    why=f"exit status {self._process.returncode}; "
                    f"{last_error(self.log, self._log_start)}",
                    hint=HINT,
                )
            time.sleep(_POLL_INTERVAL)


def _arguments(model: LanguageModel, name: str) -> dict[str, Any]:
    arguments = engine_arguments(model)
    if model.lora is None:
        return arguments | {"served_model_name": name}
    # To the server the adapter is a model of its own, and the one that requests name.
    return arguments | {"served_model_name": f"{name}-base", "lora_modules": f"{name}={model.lora}"}


def flags(arguments: Mapping[str, Any]) -> Iterator[str]:
    """Arguments as options of vLLM's command line.

    Example:
        >>> list(flags({"max_model_len": 1024, "enforce_eager": True}))
        ['--max-model-len', '1024', '--enforce-eager']
    """
    for name, value in arguments.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            yield f"--{flag}" if value else f"--no-{flag}"
        else:
            yield f"--{flag}"
            yield value if isinstance(value, str) else json.dumps(value)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def is_ready(url: str) -> bool:
    """Whether a GET of this address is answered with 200. No proxy is used."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
