"""vLLM's OpenAI-compatible server, which goes when its starter goes.

Like `vllm_worker.py` this file runs under whatever interpreter has vLLM and imports
nothing of Gristmill. The server has processes of its own; all are in one group
(the starter sees to that), and the group is killed when stdin ends: by whoever
stops the server, or by the kernel when the starter dies.
"""

from __future__ import annotations

import os
import runpy
import signal
import threading


def _watch() -> None:
    while os.read(0, 1):
        continue
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=_watch, daemon=True).start()
    # Not `vllm serve`: that needs a distribution by the name of vllm, and builds for
    # other devices have other names.
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__", alter_sys=True)
