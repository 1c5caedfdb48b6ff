"""One number of threads for all floating-point work, so that sums are equal everywhere."""

from __future__ import annotations

import os


def fix_threads() -> None:
    """Let torch use as many threads as this process has cores, whatever the environment says.

    Some kernels split a sum by the number of threads, and a runner that starts several
    workers lowers that number by OMP_NUM_THREADS. A result must not depend on the number
    of workers. The processes of one training share the cores of their machine.
    """
    import torch

    # Only Linux reports which cores a process may use.
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count()
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(max(1, (cores or 1) // sharing))
