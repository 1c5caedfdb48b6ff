"""What people use today, pinned, in an environment of its own: .venv-bench.

data-juicer pins libraries that others need newer, and several bring compilers for
numeric code; none of that may bend the project's own environment. The pins are the
`bench` extra and constraints-bench.txt. There is no torch among them.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tomllib
import venv
from functools import cache

from tests.bench import ROOT

ENVIRONMENT = ROOT / ".venv-bench"
PEERS_PYTHON = ENVIRONMENT / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
CONSTRAINTS = ROOT / "constraints-bench.txt"

QUIET = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    # data-juicer installs what it misses while it runs: then it must fail instead.
    "UV_OFFLINE": "1",
    "PIP_NO_INDEX": "1",
}
"""Environment variables of the peers' processes."""


@cache
def prepare() -> None:
    """Install the peers, once. One that cannot be installed is left out, and said so."""
    pins = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    requested: list[str] = pins["project"]["optional-dependencies"]["bench"]
    digest = hashlib.sha256("\n".join(requested).encode() + CONSTRAINTS.read_bytes()).hexdigest()
    stamp = ENVIRONMENT / ".ready"
    if stamp.exists() and stamp.read_text() == digest:
        return
    print(f"installing the peers into {ENVIRONMENT.name} (about 2 minutes and 2 GB)", flush=True)
    venv.create(ENVIRONMENT, with_pip=True, clear=True)
    if _install(*requested):
        for one in requested:
            if reported := _install(one):
                print(f"  {one} cannot be installed here: {reported}", flush=True)
    stamp.write_text(digest)


def _install(*requested: str) -> str | None:
    """Install with pip; why it failed, or None."""
    command = [PEERS_PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*command, "-c", CONSTRAINTS, *requested], capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return None
    return (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
