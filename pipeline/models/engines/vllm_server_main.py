"""The process of vLLM's OpenAI-compatible server, which ends with the process that started it.

Like `vllm_worker.py` this file runs under whatever interpreter has vLLM and imports
nothing of Gristmill. The server has processes of its own; all are in one process group,
which its starter creates, and the group is killed when stdin ends: because the server is
stopped, or because its starter has died.
"""

from __future__ import annotations

import os
import runpy
import signal
import threading


def _kill_group_when_stdin_ends() -> None:
    while os.read(0, 1):
        continue
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=_kill_group_when_stdin_ends, daemon=True).start()
    # Not `vllm serve`: that needs a distribution named vllm, and builds for other devices
    # have other names.
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__", alter_sys=True)
