"""Chunks on real clusters: Ray with two nodes, Slurm on one machine. Results are those of here."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from pipeline.context import Context
from pipeline.errors import Exit, UserError
from pipeline.execution.backends import ChunkLost, ChunkResult, RemoteStage, StageCall
from pipeline.execution.backends.named import backend_named
from pipeline.execution.progress import LineProgress
from pipeline.execution.runner import Runner
from pipeline.execution.workers import WorkerPool
from pipeline.models.base import LanguageModel, Scored
from pipeline.models.engines.ray_actors import Actors, Dispatch
from pipeline.models.engines.registry import open_engine
from pipeline.models.journal.journal import Journal
from pipeline.recipe.code_hash import code_hash
from pipeline.recipe.discovery import find
from pipeline.recipe.recipe import Recipe
from pipeline.store.store import Store
from tests.conftest import ROOT
from tests.support.running import TOY, artifact, called, pool, recipe, run

ROWS = 1200


def sized(folder: Path, rows: int = ROWS, **options: Any) -> Recipe:
    """Rows whose lengths are measured, slowly; then what is unlike a few banned rows."""
    if not (folder / "rows.txt").exists():
        pool(folder / "rows.txt", rows)
        pool(folder / "banned.txt", 20)
    measure = {"uses": "toy.hungry", "with": options} if options else {"uses": "toy.length"}
    return recipe({
        "a": {"uses": "toy.load", "with": {"path": str(folder / "rows.txt")}},
        "banned": {"uses": "toy.load", "with": {"path": str(folder / "banned.txt")}},
        "sized": {**measure, "needs": "a"},
        "clean": {"uses": "toy.unlike", "needs": {"rows": "sized", "banned": "banned"}},
        "shards": {"uses": "export.parquet", "needs": "clean"},
    }, "clusters")  # fmt: skip


def run_on(backend: Any, wired: Recipe, store: Path) -> Exit:
    lines = LineProgress(len(wired.steps), lambda text: None)
    return Runner(wired, Store(store), lines, backend=backend).run(())


def shards(wired: Recipe, store: Path) -> dict[str, bytes]:
    files = artifact(wired, store, "shards").files
    return {p.name: p.read_bytes() for p in files.rglob("*.parquet")}


@pytest.fixture(autouse=True)
def slow_toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_NAP", "0.01")
    monkeypatch.setenv("TOY_DRIVER", str(os.getpid()))


# Without any cluster


class Lossy:
    """Computes here, and loses every chunk with more than `most` rows.

    Args:
        most: The largest chunk that it computes.
    """

    slots, asks_models, loads_embedders, chunk_seconds = 2, True, False, 10.0

    def __init__(self, most: int) -> None:
        self.most, self.chunks = most, list[pl.DataFrame]()

    def begun(self, call: StageCall) -> int | None:
        return None

    def prepare(self, call: StageCall, size: int) -> Any:
        return call

    def submit(self, prepared: Any, chunk: pl.DataFrame) -> int:
        self.chunks.append(chunk)
        return len(self.chunks) - 1

    def wait(self, handles: Iterable[int], seconds: float) -> list[int]:
        return list(handles)[:1]

    def result(self, handle: int) -> ChunkResult:
        size = len(self.chunks[handle])
        if size > self.most:
            raise ChunkLost("out of memory")
        return pl.DataFrame({"length": [1] * size}, schema={"length": pl.Int32}), 0, {}

    def close(self) -> None:
        pass


@pytest.mark.parametrize("most", [40, 1])
def test_a_chunk_that_is_lost_is_tried_in_halves(
    most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.execution.workers.MIN_PARALLEL_SECONDS", 0.2)
    monkeypatch.setenv("TOY_NAP", "0.003")
    stage, backend = find(f"{TOY}.length"), Lossy(most)
    rows = pl.DataFrame({"id": [f"{n:04}" for n in range(500)],
                         "messages": [[{"role": "assistant", "content": "x"}]] * 500})  # fmt: skip
    call = StageCall(stage, SimpleNamespace(plus=0), {}, tmp_path)
    ctx = Context.scratch(tmp_path)
    done = list(WorkerPool(backend).run(call, [rows], len(rows), ctx))
    assert pl.concat(chunk for chunk, _ in done).sort("id").equals(rows)
    assert max(map(len, backend.chunks)) > most
    with pytest.raises(UserError, match="lost with a single row"):
        list(WorkerPool(Lossy(0)).run(call, [rows], len(rows), ctx))


def test_another_machine_with_other_code_is_told(tmp_path: Path) -> None:
    stage = find(f"{TOY}.length")
    remote = RemoteStage(stage.name, "0" * 32, (), SimpleNamespace(plus=0))
    with pytest.raises(UserError, match="has other code of"):
        remote.run({}, tmp_path, pl.DataFrame())
    assert code_hash(stage) != remote.code


@pytest.mark.parametrize("name", ["spark", "ray:", "ray://", "slurm://x"])
def test_an_unknown_cluster_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--on must be ray"):
        backend_named(name, 2)


def test_a_step_that_asks_a_model_does_not_run_beside_slurm(tmp_path: Path) -> None:
    backend = Lossy(1)
    backend.asks_models = False
    wired = recipe({
        "a": {"uses": "toy.load", "with": {"path": str(pool(tmp_path / "rows.txt", 5))}},
        "judged": {"uses": "toy.judge", "needs": "a", "with": {"model": "toy"}},
    })  # fmt: skip
    with pytest.raises(UserError, match="asks a language model"):
        run_on(backend, wired, tmp_path / "store")


# Ray


@pytest.fixture
def two_nodes() -> Iterator[Any]:
    """A Ray cluster of two nodes with a core each, on this machine."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "object_store_memory": 10**8, "include_dashboard": False},
    )
    second = cluster.add_node(num_cpus=1, object_store_memory=10**8)
    try:
        yield SimpleNamespace(cluster=cluster, second=second, address=cluster.address)
    finally:
        import ray

        ray.shutdown()
        cluster.shutdown()


@pytest.mark.proof
def test_ray_gives_the_shards_of_one_machine_though_a_node_and_workers_are_lost(
    two_nodes: Any, tmp_path: Path
) -> None:
    wired = sized(tmp_path, most=300)
    assert run(wired, tmp_path / "here") is Exit.DONE
    backend = backend_named(f"ray://{two_nodes.address}", 2)
    assert backend is not None
    assert backend.slots == 2

    def remove() -> None:
        time.sleep(5)
        two_nodes.cluster.remove_node(two_nodes.second, allow_graceful=False)

    thread = threading.Thread(target=remove)
    thread.start()
    assert run_on(backend, wired, tmp_path / "there") is Exit.DONE
    thread.join()
    assert shards(wired, tmp_path / "there") == shards(wired, tmp_path / "here")


@pytest.mark.proof
def test_a_driver_on_ray_is_killed_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    # Chunks of 10 s: when two workers are done with theirs, a third one is still to come.
    rows = 2 * ROWS + 600
    pool(tmp_path / "rows.txt", rows)
    (tmp_path / "far.yaml").write_text(
        "name: far\nstages:\n"
        f"  a: {{uses: {TOY}.load, with: {{path: rows.txt}}}}\n"
        f"  sized: {{uses: {TOY}.length, needs: a}}\n"
        "  shards: {uses: export.parquet, needs: sized}\n"
    )
    words = [sys.executable, "-m", "pipeline", "run", str(tmp_path / "far.yaml"), "--on", "ray",
             "--workers", "2", "--store", str(tmp_path / "store")]  # fmt: skip
    driver = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while time.monotonic() < end and len([*(tmp_path / "store").rglob("memo/*/*")]) < 3:
        time.sleep(0.1)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == Exit.DONE, done.stderr
    wired = Recipe.load(str(tmp_path / "far.yaml"))
    monkeypatch.setenv("TOY_NAP", "0")
    assert run(wired, tmp_path / "here") is Exit.DONE
    assert shards(wired, tmp_path / "store") == shards(wired, tmp_path / "here")
    sizes = artifact(wired, tmp_path / "store", "sized").manifest
    assert sizes["computed"] < rows, "what the first driver took in is not computed again"


TINYLM = {"engine": "transformers", "model": "data/models/tinylm", "resample": 0}


def written(folder: Path, rows: int = 80) -> Recipe:
    """Answers that a model writes, and what it finds easy; then the shards."""
    lines = [{"prompt": f"What is {i} and {i % 9}?", "completion": f"It is {i}."}
             for i in range(rows)]  # fmt: skip
    (folder / "asked.jsonl").write_text("\n".join(map(json.dumps, lines)))
    origin = {"path": str(folder / "asked.jsonl"), "source": "made", "license": "CC0-1.0"}
    answers = {"models": ["tiny"], "max_tokens": 24}
    return Recipe.of("written", {
        "asked": {"uses": "load.records", "with": origin},
        "answered": {"uses": "generate.respond", "needs": "asked", "with": answers},
        "scored": {"uses": "score.loss", "needs": "answered", "with": {"model": "tiny"}},
        "shards": {"uses": "export.parquet", "needs": "scored"},
    }, {"tiny": TINYLM})  # fmt: skip


def used(wired: Recipe, store: Path, stage: str) -> dict[str, int]:
    return dict(artifact(wired, store, stage).manifest["used"])


@pytest.mark.proof
def test_models_on_ray_answer_as_here_though_a_node_is_lost(two_nodes: Any, tmp_path: Path) -> None:
    """The same answers, scores and counts; no request is answered twice."""
    wired = written(tmp_path)
    assert run(wired, tmp_path / "here") is Exit.DONE
    backend = backend_named(f"ray://{two_nodes.address}", 2)
    assert backend is not None
    sent = list[int]()

    class Losing(Actors):
        def ensure(self) -> None:
            super().ensure()
            sent.append(len(self.running))
            if len(sent) == 3:
                two_nodes.cluster.remove_node(two_nodes.second, allow_graceful=False)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.models.engines.on_ray.Actors", Losing)
        assert run_on(backend, wired, tmp_path / "there") is Exit.DONE
    assert (max(sent), sent[-1]) == (2, 1), "one of two actors was lost"
    assert shards(wired, tmp_path / "there") == shards(wired, tmp_path / "here")
    for stage in ("answered", "scored"):
        assert used(wired, tmp_path / "there", stage) == used(wired, tmp_path / "here", stage)


@pytest.mark.proof
def test_a_driver_whose_models_are_on_ray_is_killed_and_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    wired = written(tmp_path, rows=200)
    assert run(wired, tmp_path / "here") is Exit.DONE
    (tmp_path / "written.yaml").write_text(wired.text)
    words = [sys.executable, "-m", "pipeline", "run", str(tmp_path / "written.yaml"), "--on", "ray",
             "--workers", "2", "--store", str(tmp_path / "store")]  # fmt: skip
    driver = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    journal = Journal(tmp_path / "store" / "journal")
    end = time.monotonic() + 240
    while time.monotonic() < end and journal.count() < 20:
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    durable = journal.count()
    assert 20 <= durable < 200
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == Exit.DONE, done.stderr
    again = used(wired, tmp_path / "store", "answered")
    assert (again["cached"], again["requests"]) == (durable, 200 - durable)
    assert shards(wired, tmp_path / "store") == shards(wired, tmp_path / "here")


@pytest.mark.proof
def test_two_models_of_a_stage_share_a_cluster(two_nodes: Any, tmp_path: Path) -> None:
    """Neither waits for ever for what the other has; each is loaded again when it is asked."""
    backend = backend_named(f"ray://{two_nodes.address}", 2)
    assert backend is not None
    models = [LanguageModel(model="data/models/tinylm", id=name) for name in ("one", "two")]
    sequence = Scored(tuple(range(5, 40)), 1)
    try:
        engines = [open_engine(model, Context.scratch(tmp_path)) for model in models]
        scores = [engine.loglikelihood([sequence])[0] for engine in [*engines, *engines]]
    finally:
        backend.close()
    assert all((score == scores[0]).all() for score in scores)


class Deadly:
    """An actor that every request ends."""

    def answer(self, batch: list[Any]) -> None:
        os._exit(1)


@pytest.mark.proof
def test_other_weights_on_a_node_and_a_request_that_ends_actors_are_told(
    two_nodes: Any, tmp_path: Path
) -> None:
    import ray

    backend = backend_named(f"ray://{two_nodes.address}", 2)
    assert backend is not None
    actors = Actors(LanguageModel(model="data/models/tinylm"), {"weights": {"digest": "0" * 32}})
    try:
        with pytest.raises(UserError, match="has other weights of data/models/tinylm"):
            actors.ensure()
        dispatch = Dispatch[Any](actors, "answer")

        def deadly() -> None:
            actors.running = actors.running or [ray.remote(Deadly).remote()]

        actors.ensure = deadly  # type: ignore[method-assign]
        actors.ensure()
        dispatch.send([1, 2, 3])

        def drain() -> None:
            while dispatch.busy:
                list(dispatch.receive())

        with pytest.raises(UserError, match="lost with a single request"):
            drain()
    finally:
        backend.close()


# Slurm

CONFIGURATION = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SchedulerParameters=batch_sched_delay=0,sched_interval=1
MinJobAge=5
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES
"""


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.fixture
def slurm(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Slurm on this machine, of daemons that this test starts and ends."""
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin:/sbin")
    needed = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch")
    if os.getuid() != 0 or any(shutil.which(program) is None for program in needed):
        pytest.skip("needs slurm-wlm and munge, and to be root")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    names = {"host": socket.gethostname().split(".")[0], "folder": folder}
    ports = {"controller": _free_port(), "daemon": _free_port()}
    (folder / "slurm.conf").write_text(CONFIGURATION.format(**names, **ports))
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    subprocess.run(["mungekey", "--create", f"--keyfile={folder}/key"], check=True)
    words = [
        ["munged", "--foreground", "--force", f"--key-file={folder}/key",
         f"--socket={folder}/munge.socket", f"--pid-file={folder}/munge.pid",
         f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed"],
        ["slurmctld", "-D", "-i", "-c"],
        ["slurmd", "-D", "-c"],
    ]  # fmt: skip
    daemons = []
    try:
        for each in words:
            daemons.append(subprocess.Popen(each, stdout=subprocess.DEVNULL,
                                            stderr=subprocess.DEVNULL))  # fmt: skip
            time.sleep(1)
        end = time.monotonic() + 60
        while "idle" not in subprocess.run(["sinfo", "-h"], capture_output=True, text=True).stdout:
            assert time.monotonic() < end, (folder / "slurmctld.log").read_text()[-2000:]
            time.sleep(0.2)
        yield folder
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(10)
            daemon.kill()


@pytest.mark.proof
@pytest.mark.usefixtures("slurm")
def test_slurm_gives_the_shards_of_one_machine_though_jobs_are_lost(tmp_path: Path) -> None:
    wired = sized(tmp_path, most=300)
    assert run(wired, tmp_path / "here") is Exit.DONE
    backend = backend_named("slurm", 2)
    assert run_on(backend, wired, tmp_path / "there") is Exit.DONE
    assert shards(wired, tmp_path / "there") == shards(wired, tmp_path / "here")


@pytest.mark.proof
def test_a_driver_beside_slurm_is_killed_and_takes_what_its_jobs_did(
    slurm: Path, tmp_path: Path
) -> None:
    pool(tmp_path / "rows.txt", ROWS)
    (tmp_path / "far.yaml").write_text(
        "name: far\nstages:\n"
        f"  a: {{uses: {TOY}.load, with: {{path: rows.txt}}}}\n"
        f"  sized: {{uses: {TOY}.length, needs: a}}\n"
        "  shards: {uses: export.parquet, needs: sized}\n"
    )
    words = [sys.executable, "-m", "pipeline", "run", str(tmp_path / "far.yaml"), "--on", "slurm",
             "--workers", "2", "--store", str(tmp_path / "store")]  # fmt: skip
    driver = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while time.monotonic() < end and not [*(tmp_path / "store").rglob("array-*.json")]:
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    arrays = [*(tmp_path / "store").rglob("array-*.json")]
    end = time.monotonic() + 120
    while subprocess.run(["squeue", "-h"], capture_output=True, text=True).stdout:
        assert time.monotonic() < end
        time.sleep(0.2)
    outs = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*.out")}
    assert len(arrays) == 1
    assert outs, "the jobs went on without their driver"
    done = called("run", str(tmp_path / "far.yaml"), "--on", "slurm", "--workers", "2",
                  "--store", str(tmp_path / "store"))  # fmt: skip
    assert done.returncode == Exit.DONE, done.stderr
    wired = Recipe.load(str(tmp_path / "far.yaml"))
    assert run(wired, tmp_path / "here") is Exit.DONE
    assert shards(wired, tmp_path / "store") == shards(wired, tmp_path / "here")
    jobs = subprocess.run(["sbatch", "--parsable", "--wrap=true"], capture_output=True, text=True)
    assert int(jobs.stdout) <= int(arrays[0].stem.removeprefix("array-")) + 20, "nothing twice"
