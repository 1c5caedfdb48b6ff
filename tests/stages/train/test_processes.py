"""Several processes that train one model: the curve of one, no hang, no orphan, and resumption."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from pipeline.execution.group import call_stage, meeting_point
from pipeline.models import LanguageModel
from pipeline.recipe.discovery import find
from pipeline.stage import ROOT
from stages._training import processes, shared_passes
from stages._training.launch_settings import apply, environment
from stages.train.sft import sft
from tests.stages.train.test_preference import polite
from tests.stages.train.test_preference import shards as pair_shards
from tests.stages.train.test_sft import rows, write_shards
from tests.support.options import problems

SFT = {"max_length": 128, "learning_rate": 1e-3, "num_train_epochs": 1.0}
UNPACKED = {"packing": False, "per_device_train_batch_size": 2}
TRAININGS = "tests.support.trainings"


@contextmanager
def process(rank: int, size: int) -> Iterator[None]:
    """As a process of several."""
    named = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in named.items():
            patch.setenv(name, value)
        yield


@given(
    num_rows=st.integers(1, 60),
    batch_size=st.integers(1, 4),
    size=st.integers(1, 5),
    passes_each=st.integers(1, 4),
    mean=st.booleans(),
)
def test_the_passes_of_all_processes_are_those_of_one(
    num_rows: int, batch_size: int, size: int, passes_each: int, mean: bool
) -> None:
    """Every row counts in its step as it does in one process, and rounds are equally many."""
    per_step = passes_each * size
    alone = shared_passes.batches_of(num_rows, batch_size)
    expected: dict[tuple[int, ...], tuple[int, float]] = {}
    for number, batch in enumerate(alone):
        left = len(alone) - number // per_step * per_step
        weight = 1 / min(per_step, left) if mean else 1.0
        expected[tuple(batch)] = (number // per_step, weight)
    together: dict[tuple[int, ...], list[Any]] = {}
    rounds = set()
    for rank in range(size):
        with process(rank, size):
            own = shared_passes.batches_of(num_rows, batch_size)
            rounds.add(len(own))
            for number, batch in enumerate(own):
                step, within = divmod(number, passes_each)
                in_step = min(passes_each, len(own) - step * passes_each)
                share = shared_passes.share_of_pass(step, within, per_step, len(alone), mean=mean)
                weight = share / in_step / size if mean else share
                together.setdefault(tuple(batch), []).append((step, weight))
    assert len(rounds) == 1
    assert together.keys() == expected.keys()
    for batch, (step, weight) in expected.items():
        counted = [each for each in together[batch] if each[1]]
        assert [each[0] for each in counted] == [step]
        assert counted[0][1] == pytest.approx(weight)


def test_devices_must_share_the_passes_of_a_step_evenly() -> None:
    three = LanguageModel("m", devices=3)
    for name, more in (("train.sft", {}), ("train.preference", {}), ("report.ablation", {})):
        required = {"max_steps": 1} if name.startswith("train") else more
        assert problems(name, three, **required) == [
            "gradient_accumulation_steps must be a multiple of the model's devices, 3, got 8"
        ]
        assert not problems(name, three, **required, gradient_accumulation_steps=6)


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("train.sft", {"noise": {"name": "neftune", "alpha": 5}, "packing": False}, "noise"),
        ("train.preference", {"loss": "kto"}, "loss"),
        ("train.preference", {"loss": {"name": "trl", "loss_type": ["bco_pair"]}}, "loss"),
    ],
)
def test_what_other_processes_would_change_is_refused(
    name: str, options: dict[str, Any], problem: str
) -> None:
    two = LanguageModel("m", devices=2)
    message = problems(name, two, max_steps=1, **options)[0]
    assert message.startswith(f"{problem} must not be ")
    assert message.endswith(" with several devices")
    assert not problems(name, LanguageModel("m"), max_steps=1, **options)


def test_epochs_are_not_kept_where_the_weights_are_in_parts() -> None:
    spread = LanguageModel("m", devices=2, accelerate="fsdp.yaml")
    message = problems("train.sft", spread, num_train_epochs=2.0, checkpoints=[1])
    assert message == ["checkpoints must be left out with accelerate's settings, got [1]"]
    assert not problems("train.sft", spread, num_train_epochs=2.0)


def test_auto_is_one_process_without_a_gpu(tinylm: LanguageModel) -> None:
    auto = replace(tinylm, devices="auto", device="cpu")
    options = SimpleNamespace(model=auto, gradient_accumulation_steps=8)
    assert processes.processes(options) == 1


def test_a_training_with_fewer_processes_than_devices_is_no_silent_one(
    ctx: Context, tinylm: LanguageModel, tmp_path: Path
) -> None:
    shards = write_shards(tmp_path / "s", rows())
    with pytest.raises(UserError, match="must have as many processes, got 1"):
        sft(ctx, shards, model=replace(tinylm, devices=2), max_steps=1)


FSDP_SETTINGS = """\
compute_environment: LOCAL_MACHINE
distributed_type: FSDP
mixed_precision: bf16
num_machines: 1
num_processes: 8
machine_rank: 0
fsdp_config:
  fsdp_version: 2
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  fsdp_reshard_after_forward: true
  fsdp_state_dict_type: FULL_STATE_DICT
  fsdp_cpu_ram_efficient_loading: false
"""


def test_accelerates_settings_are_passed_through_but_for_precision(tmp_path: Path) -> None:
    file = tmp_path / "fsdp.yaml"
    file.write_text(FSDP_SETTINGS)
    before = dict(os.environ)
    settings = environment(str(file))
    assert dict(os.environ) == before
    assert settings["ACCELERATE_USE_FSDP"] == "true"
    assert settings["FSDP_VERSION"] == "2"
    with pytest.raises(UserError, match="must be MULTI_CPU without GPUs, got FSDP"):
        apply(str(file), on_gpu=False)
    assert dict(os.environ) == before
    assert settings["FSDP_AUTO_WRAP_POLICY"] == "TRANSFORMER_BASED_WRAP"
    assert "ACCELERATE_MIXED_PRECISION" not in settings
    assert "MASTER_PORT" not in settings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("distributed_type: TPU\n", "distributed_type must be one of FSDP"),
        ("- 1\n", "the settings must be a mapping"),
        ("a: [\n", "the settings must be YAML"),
        (FSDP_SETTINGS + "no_such_setting: 1\n", "accelerate cannot read the settings"),
    ],
)
def test_settings_that_are_none_are_refused(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        environment(str(file))
    assert error.value.where == str(file)


def test_settings_that_are_not_there_are_reported_at_their_line(tmp_path: Path) -> None:
    from pipeline.recipe.recipe import Recipe

    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "name: r\nmodels:\n  m: {engine: transformers, model: data/models/tinylm,\n"
        "      accelerate: fsdp.yaml}\nstages:\n"
        "  pool: {uses: load.records, with: {path: data/samples/self_instruct.jsonl.gz, "
        "source: s, license: Apache-2.0}}\n"
    )
    with pytest.raises(UserError) as error:
        Recipe.load(str(recipe))
    assert f"{recipe}:4: " in str(error.value)
    assert "accelerate must be a file, and there is none at 'fsdp.yaml'" in str(error.value)


def call(
    folder: Path,
    model: LanguageModel,
    cases: Sequence[Mapping[str, Any]],
    devices: int,
    report: Callable[[float, float | None], None] | None = None,
) -> list[dict[str, Any]]:
    """The metrics of trainings in some processes; with a report they save at every step."""
    ctx = Context.scratch(folder)
    ctx.report = report or ctx.report
    options = SimpleNamespace(
        model=replace(model, devices=devices),
        gradient_accumulation_steps=4,
        cases=json.dumps(cases),
        every_step=report is not None,
    )
    call_stage(find(TRAININGS), ctx, {}, options)
    assert not multiprocessing.active_children()
    files = [ctx.files / str(number) / "metrics.json" for number in range(len(cases))]
    return [json.loads(file.read_text()) for file in files]


def assert_equal_curves(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    assert len(one["losses"]) == len(other["losses"]) > 1
    for step, again in zip(one["losses"], other["losses"], strict=True):
        assert step.keys() == again.keys()
        for name, value in step.items():
            assert again[name] == pytest.approx(value, abs=1e-4), (name, step["step"])
    for name in ("validation", "held_out"):
        assert (name in one) == (name in other)
    if "validation" in one:
        assert other["validation"]["after"] == pytest.approx(one["validation"]["after"], abs=1e-4)
    if "held_out" in one:
        assert other["held_out"]["margin"] == pytest.approx(one["held_out"]["margin"], abs=1e-3)


def sft_case(shards: Path, **options: Any) -> dict[str, Any]:
    return {"uses": "train.sft", "shards": str(shards), "options": {**SFT, **options}}


def preference_case(shards: Path, **options: Any) -> dict[str, Any]:
    own = {"per_device_train_batch_size": 2, "max_length": 64, "num_train_epochs": 1.0}
    return {
        "uses": "train.preference",
        "shards": str(shards),
        "options": {**own, "learning_rate": 1e-3, **options},
    }


CASES = {
    "packed, weighted, kept": [
        ("train.sft", {"num_train_epochs": 3.0}),
        ("train.sft", {**UNPACKED}),
        ("train.sft", {**UNPACKED, "weight_column": "weight", "checkpoints": [1]}),
        ("train.sft", {**UNPACKED, "early_stopping": {"eval_steps": 1, "patience": 1}}),
    ],
    "losses and noise": [
        ("train.sft", {**UNPACKED, "loss": "dft", "method": {"name": "lora", "lora_r": 4}}),
        ("train.sft", {**UNPACKED, "loss": {"name": "mixup", "perplexities": ["weight"]}}),
        ("train.sft", {**UNPACKED, "loss": "intuitive"}),
        ("train.sft", {**UNPACKED, "loss": "minor"}),
        ("train.sft", {**UNPACKED, "noise": {"name": "masked", "rate": 0.5, "ramp": 0}}),
    ],
    "pairs": [
        ("train.preference", {"loss": {"name": "dpo", "sft_weight": 0.2}}),
        # With an incomplete last pass one process notes a wrong margin of it: the library cuts what
        # it gathers of all passes of the last step to the rows of the last one.
        ("train.preference", {"loss": "orpo", "per_device_train_batch_size": 1}),
        ("train.preference", {"loss": "ipo", "method": {"name": "lora", "lora_r": 4}}),
        ("train.preference", {"loss": "uft"}),
        ("train.preference", {"loss": "davir"}),
    ],
}


@pytest.mark.proof
@pytest.mark.parametrize("kind", CASES)
def test_two_processes_give_the_curve_of_one(
    kind: str, tmp_path: Path, tinylm: LanguageModel
) -> None:
    """Steps that no number of processes divides, partial passes, and losses of all kinds."""
    weights = pl.Series("weight", np.linspace(0.2, 2, 13))
    train, test = rows(13).select("messages", "id", weights), rows(16)[13:].select("messages", "id")
    shards = write_shards(tmp_path / "s", train, test)
    pairs = pair_shards(tmp_path / "pairs", polite(15), validation_fraction=0.1)
    cases = [
        sft_case(shards, **options) if uses == "train.sft" else preference_case(pairs, **options)
        for uses, options in CASES[kind]
    ]
    alone = call(tmp_path / "one", tinylm, cases, 1)
    together = call(tmp_path / "two", tinylm, cases, 2)
    for number, (one, two) in enumerate(zip(alone, together, strict=True)):
        assert_equal_curves(one, two)
        folders = [tmp_path / name / "files" / str(number) for name in ("one", "two")]
        names = [sorted(path.relative_to(f) for path in f.rglob("*")) for f in folders]
        assert names[0] == names[1]


def kill_at(step: int, rank: int) -> Callable[[float, float | None], None]:
    def report(done: float, total: float | None) -> None:
        if done == step:
            children = sorted(multiprocessing.active_children(), key=lambda child: child.name)
            os.kill(children[rank].pid or 0, signal.SIGKILL)

    return report


@pytest.mark.proof
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_all_and_the_next_run_goes_on(
    rank: int, tmp_path: Path, tinylm: LanguageModel
) -> None:
    cases = [sft_case(write_shards(tmp_path / "s", rows(13)), **UNPACKED, num_train_epochs=3.0)]
    expected = call(tmp_path / "one", tinylm, cases, 1)[0]
    begun = time.monotonic()
    with pytest.raises(UserError, match=f"process {rank + 1} of the 2 of a training was killed"):
        call(tmp_path / "two", tinylm, cases, 2, kill_at(3, rank))
    assert time.monotonic() - begun < 300
    assert not multiprocessing.active_children()
    steps: list[float] = []
    resumed = call(tmp_path / "two", tinylm, cases, 2, lambda done, _: steps.append(done))[0]
    assert steps[0] > 1
    assert_equal_curves(expected, resumed)


@pytest.mark.proof
def test_another_number_of_processes_goes_on(tmp_path: Path, tinylm: LanguageModel) -> None:
    cases = [sft_case(write_shards(tmp_path / "s", rows(13)), **UNPACKED, num_train_epochs=2.0)]
    expected = call(tmp_path / "one", tinylm, cases, 1)[0]
    with pytest.raises(UserError, match="was killed"):
        call(tmp_path / "two", tinylm, cases, 2, kill_at(2, 0))
    steps: list[float] = []
    resumed = call(tmp_path / "two", tinylm, cases, 1, lambda done, _: steps.append(done))[0]
    assert steps[0] > 1
    assert_equal_curves(expected, resumed)


@pytest.mark.proof
def test_a_mistake_and_a_bug_arrive_as_what_they_are(tmp_path: Path, tinylm: LanguageModel) -> None:
    shards = write_shards(tmp_path / "s", rows(5))
    with pytest.raises(OptionError, match="max_length must be at most"):
        call(tmp_path / "a", tinylm, [sft_case(shards, max_length=100_000)], 2)
    with pytest.raises(RuntimeError, match="AssertionError"):
        call(tmp_path / "b", tinylm, [sft_case(shards, no_such_option=1)], 2)


PARENT = """
import sys
from pathlib import Path
from pipeline.models import LanguageModel
from tests.stages.train.test_processes import call, sft_case

def report(done, total):
    import multiprocessing
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)

if __name__ == "__main__":
    cases = [sft_case(Path(sys.argv[2]), max_steps=200, num_train_epochs=None)]
    call(Path(sys.argv[1]), LanguageModel("data/models/tinylm"), cases, 2, report)
"""


@pytest.mark.proof
def test_processes_die_with_their_parent(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "s", rows(5))
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    command = [sys.executable, str(script), str(tmp_path / "run"), str(shards)]
    environment_ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment_, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(children) == 2
        parent.kill()
    end = time.monotonic() + 30
    while any(map(is_alive, children)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(map(is_alive, children))


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux")
def test_processes_meet_where_no_other_machine_can_come() -> None:
    store = meeting_point()
    sockets = [line.split() for name in ("tcp", "tcp6")
               for line in Path(f"/proc/net/{name}").read_text().splitlines()]  # fmt: skip
    listening = [s[1] for s in sockets if s[1].endswith(f":{store.port:04X}") and s[3] == "0A"]
    assert listening == [f"0100007F:{store.port:04X}"]
