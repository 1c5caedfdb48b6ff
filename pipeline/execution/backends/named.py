"""The backends by the names that the command line gives them."""

from __future__ import annotations

from pipeline.errors import UserError
from pipeline.execution.backends import Backend


def backend_named(name: str | None, workers: int) -> Backend | None:
    """A backend; None for processes of this machine, which start when they are needed.

    Args:
        name: `ray`, `ray://HOST:PORT`, `ray://auto` or `slurm`. The address of a cluster is the
            one that `ray start` prints; the driver runs on one of its nodes.
        workers: Cores, where the backend is started on this machine; jobs of an array at once.

    Raises:
        UserError: There is no such backend, or it cannot be reached.
    """
    if name is None:
        return None
    scheme, mark, rest = name.partition("://")
    if scheme == "ray" and bool(mark) == bool(rest):
        from pipeline.execution.backends.ray_core import RayTasks

        return RayTasks(rest or None, workers)
    if name == "slurm":
        from pipeline.execution.backends.slurm import SlurmJobs

        return SlurmJobs(workers)
    raise UserError(f"--on must be ray, ray://HOST:PORT, ray://auto or slurm, got {name!r}")
