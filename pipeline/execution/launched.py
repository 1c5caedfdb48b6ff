"""A process that a launcher started as one of several: torchrun, accelerate, Slurm's srun.

What such a launcher says is in the environment, by torch's names. srun has names of its own, which
are translated here.
"""

from __future__ import annotations

import os
import subprocess
from typing import Final

from pipeline.errors import UserError

_FIRST_PORT: Final = 20_000
_PORTS: Final = 40_000


def launched() -> int:
    """How many processes a launcher started together with this one; 1 without a launcher."""
    named = all(name in os.environ for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    return int(os.environ["WORLD_SIZE"]) if named else 1


def is_first() -> bool:
    """Whether this is the first of them, or the only one."""
    return launched() == 1 or os.environ["RANK"] == "0"


def refuse_launcher() -> None:
    """Refuse to be one of several processes: a run is one, and starts those of its trainings.

    Raises:
        UserError: A launcher started several.
    """
    if launched() > 1:
        raise UserError(
            f"a run must be one process, and a launcher started {launched()}",
            why="it starts the processes of a training by itself",
            hint="start it without a launcher, and give the model devices: "
            f"{os.environ.get('LOCAL_WORLD_SIZE', 'N')}",
        )


def adopt_slurm() -> None:
    """Say in torch's names what srun says of the tasks that it started, if it started several.

    They meet at the first node of the step, at a port that follows from the job and the step;
    MASTER_ADDR and MASTER_PORT say otherwise.

    Raises:
        UserError: The nodes have no names.
    """
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    if tasks == 1 or "RANK" in os.environ or "SLURM_PROCID" not in os.environ:
        return
    nodes = int(os.environ.get("SLURM_STEP_NUM_NODES", "1"))
    job, step = int(os.environ["SLURM_JOB_ID"]), int(os.environ.get("SLURM_STEP_ID", "0"))
    os.environ |= {
        "RANK": os.environ["SLURM_PROCID"],
        "LOCAL_RANK": os.environ["SLURM_LOCALID"],
        "WORLD_SIZE": str(tasks),
        "LOCAL_WORLD_SIZE": str(tasks // nodes),
    }
    os.environ.setdefault("MASTER_ADDR", _first_node() if nodes > 1 else "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", str(_FIRST_PORT + (job * 31 + step) % _PORTS))


def _first_node() -> str:
    names = os.environ.get("SLURM_STEP_NODELIST", "")
    try:
        command = ["scontrol", "show", "hostnames", names]
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return listed.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        raise UserError(
            f"the nodes of the Slurm step must have names, got {names!r}",
            hint="set MASTER_ADDR to the first node's address",
        ) from None
