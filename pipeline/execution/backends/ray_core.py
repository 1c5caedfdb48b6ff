"""Chunks on Ray: tasks of Ray core, on one machine or a cluster.

The other inputs of a stage travel once, by the object store: frames as they are, folders as
their files. Every node needs the same checkout at the same path (the code's hash is compared),
and what options name by path (weights, files) at the same paths. A task that dies with its node
is started again by Ray; one whose worker ran out of memory comes back as lost, and the pool
tries it in halves. The weights of language models are in actors (`models/engines/on_ray.py`).
"""

from __future__ import annotations

import atexit
import os
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from shutil import rmtree
from typing import Any, Final

import polars as pl

from pipeline import ROOT
from pipeline.errors import Exit, UserError
from pipeline.execution.backends import ChunkLost, ChunkResult, RemoteStage, StageCall
from pipeline.models.engines.on_ray import RayModel
from pipeline.models.engines.registry import hosted_by
from pipeline.stage import DataKind

RETRIES: Final = 1
"""How often Ray starts a task again whose node or worker died."""

_THREADS: Final = {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
"""A task has one core; whoever takes more slows its neighbours down."""


@dataclass
class RayTasks:
    """A Ray cluster.

    Args:
        address: `HOST:PORT` of a cluster that this machine is a node of, or `auto` for the one
            that runs here; None starts Ray on this machine.
        cores: Cores of this machine that Ray may use, where it is started here.

    Attributes:
        asks_models: Steps that ask language models run in the driver, their weights in actors.
        slots: How many chunks are computed at once: the cluster's cores.
        loads_embedders: Every worker loads its own.
        chunk_seconds: How long a chunk should take: a lost one is computed again.
    """

    address: str | None = None
    cores: int = 1
    slots: int = field(default=1, init=False)
    asks_models: bool = field(default=True, init=False)
    loads_embedders: bool = field(default=True, init=False)
    chunk_seconds: float = field(default=10.0, init=False)
    _task: Any = field(default=None, init=False, repr=False)
    _owns: bool = field(default=False, init=False)
    _hosting: ExitStack = field(default_factory=ExitStack, init=False, repr=False)

    def __post_init__(self) -> None:
        ray = _ray()
        environment = {"PYTHONPATH": str(ROOT), **_THREADS}
        options: dict[str, Any] = {"num_cpus": self.cores, "include_dashboard": False}
        if self.address:
            options = {"address": self.address}
        if not ray.is_initialized():
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            try:
                ray.init(
                    **options,
                    log_to_driver=False,
                    logging_level="ERROR",
                    runtime_env={"env_vars": environment},
                )
            except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
                raise UserError("there is no Ray cluster", where=self.address or "this machine",
                                why=_line(error), code=Exit.TRY_AGAIN) from None  # fmt: skip
            self._owns = True
        self._task = ray.remote(max_retries=RETRIES)(_run_chunk)
        self.slots = max(1, int(ray.cluster_resources().get("CPU", 1)))
        self._hosting.enter_context(hosted_by(RayModel))

    def begun(self, call: StageCall) -> int | None:  # noqa: ARG002
        """The rows of a chunk where a driver before this one began the call; None otherwise.

        Args:
            call: The call.
        """
        return None

    def prepare(self, call: StageCall, size: int) -> tuple[Any, Any]:  # noqa: ARG002
        """The stage and its other inputs, in the object store.

        Args:
            call: The call.
            size: The rows of a chunk.
        """
        ray = _ray()
        edges = {edge.name: _packed(call, edge) for edge in call.stage.edges[1:]}
        return ray.put(RemoteStage.of(call)), ray.put(edges)

    def submit(self, prepared: tuple[Any, Any], chunk: pl.DataFrame) -> Any:
        """Begin to compute a chunk; a handle of it.

        Args:
            prepared: What `prepare` gave.
            chunk: The rows.
        """
        stage, edges = prepared
        return self._task.remote(stage, edges, edges.hex(), chunk)

    def wait(self, handles: Iterable[Any], seconds: float) -> list[Any]:
        """The handles that are done, after at most some seconds.

        Args:
            handles: Those to wait for.
            seconds: How long.
        """
        done, _ = _ray().wait(list(handles), timeout=seconds)
        return list(done)

    def result(self, handle: Any) -> ChunkResult:
        """The result of a chunk that is done.

        Args:
            handle: Its handle.

        Raises:
            ChunkLost: Its worker or its node is gone.
            UserError: What the stage raised.
        """
        ray = _ray()
        try:
            result: ChunkResult = ray.get(handle)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            raise ChunkLost(_line(error)) from None
        return result

    def close(self) -> None:
        """Leave the cluster; what was started here ends."""
        self._hosting.close()
        if self._owns:
            _ray().shutdown()
            self._owns = False


def _ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise UserError("Ray is not installed", hint="pip install 'gristmill[ray]'") from None
    return ray


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _packed(call: StageCall, edge: Any) -> Any:
    """An input as it travels: frames as they are, a folder as its files by path."""
    value = call.edges[edge.name]
    if edge.kind is not DataKind.FILES or value is None:
        return value
    return [_files(p) for p in value] if isinstance(value, list) else _files(value)


def _files(folder: Path) -> dict[str, bytes]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def _unpacked(value: Any) -> Any:
    if isinstance(value, list):
        return [_unpacked(each) for each in value]
    if not isinstance(value, dict):
        return value
    folder = _scratch()
    for name, content in value.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def _scratch() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="gristmill-"))
    atexit.register(rmtree, folder, ignore_errors=True)
    return folder


_EDGES: Final[dict[str, dict[str, Any]]] = {}
"""The other inputs of the call that this worker computes for, by the object's id."""


def _run_chunk(
    stage: RemoteStage, edges: dict[str, Any], key: str, rows: pl.DataFrame
) -> ChunkResult:
    """Call a stage on one chunk, on a node.

    Args:
        stage: The stage.
        edges: Its other inputs, as `_packed` gives them.
        key: Another one for other inputs.
        rows: The chunk.
    """
    if key not in _EDGES:
        _EDGES.clear()
        _EDGES[key] = {name: _unpacked(value) for name, value in edges.items()}
    return stage.run(_EDGES[key], _work_folder(), rows)


@lru_cache
def _work_folder() -> Path:
    return _scratch()
