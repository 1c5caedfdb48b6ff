"""The verb `train`: from shards alone, by itself, by torchrun and by srun, with one result."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.execution import launched
from pipeline.stage import ROOT
from tests.pipeline.test_clusters import slurm as slurm
from tests.stages.train.test_sft import rows, write_shards
from tests.support.cli import call

OPTIONS = (
    "--set", "num_train_epochs=2", "--set", "max_length=128", "--set", "packing=false",
    "--set", "gradient_accumulation_steps=4", "--set", "learning_rate=1.0e-3",
)  # fmt: skip


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    return write_shards(folder / "s", rows(11).select("messages", "id"), rows(13)[11:])


def words(shards: Path, to: Path, *more: str) -> list[str]:
    model = ["--model", "data/models/tinylm", "--to", str(to)]
    return ["-m", "pipeline", "train", str(shards), *model, *OPTIONS, *more]


def started(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)


def losses(folder: Path) -> list[float]:
    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return [step["loss"] for step in metrics["losses"]]


@pytest.fixture(scope="module")
def expected(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of one process."""
    to = tmp_path_factory.mktemp("alone") / "trained"
    done = started(sys.executable, *words(shards, to))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"train.sft: {to}"
    assert sorted(path.name for path in to.iterdir()) == ["metrics.json", "model"]
    return losses(to)


@pytest.mark.proof
@pytest.mark.parametrize(
    "launcher",
    [
        [sys.executable],
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"],
    ],
    ids=["itself", "torchrun"],
)
def test_two_processes_of_any_launcher_train_as_one(
    launcher: list[str], shards: Path, expected: list[float], tmp_path: Path
) -> None:
    done = started(*launcher, *words(shards, tmp_path / "to", "--devices", "2"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("train.sft: ") == 1
    assert losses(tmp_path / "to") == pytest.approx(expected, abs=1e-4)
    assert not (tmp_path / "to/unfinished").exists()


@pytest.mark.proof
@pytest.mark.usefixtures("slurm")
def test_srun_starts_the_processes(shards: Path, expected: list[float], tmp_path: Path) -> None:
    srun = ["srun", "--ntasks=2", "--kill-on-bad-exit=1"]
    done = started(*srun, sys.executable, *words(shards, tmp_path / "to", "--devices", "2"))
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "to") == pytest.approx(expected, abs=1e-4)


@pytest.mark.proof
def test_a_process_of_torchrun_that_is_killed_ends_all_of_them(
    shards: Path, tmp_path: Path
) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    to = tmp_path / "to"
    command = [sys.executable, *launcher, *words(shards, to, "--set", "num_train_epochs=500")]
    run = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 300
    while not [*to.rglob("checkpoints")] and time.monotonic() < end:
        time.sleep(0.2)
    children = subprocess.run(
        ["pgrep", "-P", str(run.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    assert len(children) == 2
    os.kill(int(children[1]), signal.SIGKILL)
    _, stderr = run.communicate(timeout=300)
    assert run.returncode != 0
    assert "SIGKILL" in stderr or "Signal 9" in stderr
    assert not Path(f"/proc/{children[0]}").exists()


def test_mistakes_are_said_before_anything_is_loaded(shards: Path, tmp_path: Path) -> None:
    def message(*more: str, folder: Path = shards) -> str:
        done = call(*words(folder, tmp_path / "to", *more)[2:])
        assert done.code == 2, done.stderr
        return done.stderr

    assert "there are no data/*.parquet" in message(folder=tmp_path)
    assert "did you mean 'num_train_epochs'?" in message("--set", "num_train_epoch=2")
    assert "--set model.dtyp: unknown key 'dtyp'" in message("--set", "model.dtyp=bfloat16")
    assert "must be a multiple of the model's devices, 3, got 4" in message("--devices", "3")
    assert "--devices must be a number from 1 on, or auto" in message("--devices", "0")
    assert "accelerate must be a file" in message("--accelerate", "nowhere.yaml")
    assert "does not train on shards" in message("--uses", "report.ablation")
    (tmp_path / "to").mkdir()
    (tmp_path / "to/metrics.json").write_text("{}")
    assert "holds a training already" in message()


def test_what_srun_says_is_said_in_torchs_names(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {
        "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "1", "SLURM_PROCID": "3",
        "SLURM_LOCALID": "3", "SLURM_JOB_ID": "70", "SLURM_STEP_ID": "2",
    }  # fmt: skip
    for name in (
        "RANK",
        "LOCAL_RANK",
        "WORLD_SIZE",
        "LOCAL_WORLD_SIZE",
        "MASTER_ADDR",
        "MASTER_PORT",
    ):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    launched.adopt_slurm()
    assert launched.launched() == 1
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    launched.adopt_slurm()
    assert launched.launched() == 4
    with pytest.raises(UserError, match="a run must be one process, and a launcher started 4"):
        launched.refuse_launcher()
    assert not launched.is_first()
    assert os.environ["LOCAL_WORLD_SIZE"] == "4"
    assert os.environ["MASTER_ADDR"] == "127.0.0.1"
    assert 20_000 <= int(os.environ["MASTER_PORT"]) < 60_000
