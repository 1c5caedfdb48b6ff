"""`train.preference`: what TRL would train on, what every loss begins with, and that a kill
changes nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from pipeline.models import LanguageModel
from stages._training import preference_data
from stages._training import trainer as trainer_module
from stages._training.dataset import load_tokenizer
from stages._training.hyperparameters import Full, LoRA
from stages._training.losses.preference import UFT, DavIR
from stages._training.preferences import DPO, IPO, KTO, ORPO, TRL, Loss
from stages.export.pairs import pairs as export_pairs
from stages.train.preference import preference
from tests.conftest import ROOT
from tests.support.options import problems
from tests.support.pairing import pair, pair_frame, ranked_sample, turn
from tests.support.rows import conversations

SMALL = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_length": 64}


def polite(count: int, start: int = 0) -> pl.DataFrame:
    """Pairs whose chosen side is always the same friendly answer."""
    return pair_frame(
        pair(f"Number {i}?", "Yes, gladly.", f"No. {i}") for i in range(start, start + count)
    )


def shards(folder: Path, rows: pl.DataFrame, **options: Any) -> Path:
    ctx = Context.scratch(folder)
    export_pairs(ctx, rows, **options)
    return ctx.files


def train(ctx: Context, pairs: Any, held_out: Any = None, **options: Any) -> dict[str, Any]:
    preference(ctx, pairs, held_out, **{**SMALL, "max_steps": 2} | options)
    return json.loads((ctx.files / "metrics.json").read_text())


def weights(ctx: Context) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(ctx.files / "model/model.safetensors")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, pl.DataFrame]:
    """tinylm's tokenizer, and real pairs with calls, tools and reasoning among them."""
    tokenizer, _ = load_tokenizer(LanguageModel(model="data/models/tinylm"))
    calls = [{"id": "1", "name": "add", "arguments": '{"a": 1}'}]
    side = [
        turn("assistant", None, tool_calls=calls),
        turn("tool", "2", tool_call_id="1"),
        turn("assistant", "2", reasoning="Added."),
    ]
    called = pair("1 + 1?", None, "3", tools='[{"name": "add"}]') | {"chosen": side, "id": "0"}
    return tokenizer, pl.concat([ranked_sample()[:30], pair_frame([called])]).sort("id")


def test_tokens_are_those_of_trl_reading_the_shards(
    loaded: tuple[Any, pl.DataFrame], tmp_path: Path
) -> None:
    import datasets
    from trl.trainer.dpo_trainer import DPOTrainer
    from trl.trainer.kto_trainer import KTOTrainer

    tokenizer, rows = loaded
    encoded, counts = preference_data.cut_pairs(
        preference_data.encode_pairs(tokenizer, rows), 100_000
    )
    assert counts["rows_refused"] == counts["rows_cut"] == counts["rows_too_long"] == 0
    halves = preference_data.with_mismatched(preference_data.halves(encoded), 4)
    arguments = SimpleNamespace(
        dataset_num_proc=None, max_length=None, truncation_mode="keep_start",
        per_device_train_batch_size=4,
    )  # fmt: skip
    own = SimpleNamespace(
        _tokenizer=tokenizer, calculate_KL=True, desirable_weight=1.0, undesirable_weight=1.0
    )
    for form, trainer, ours in (("dpo", DPOTrainer, encoded), ("kto", KTOTrainer, halves)):
        folder = shards(tmp_path / form, rows, form=form)
        with trainer_module.quiet():
            data = datasets.load_dataset(
                str(folder), cache_dir=str(tmp_path / f"{form}-c"), split="train"
            )
            if form == "kto":
                data = data.sort(["id", "label"])
            data = trainer._prepare_dataset(own, data, tokenizer, arguments, "train")
        for column in (name for name in ours.columns if name.endswith("_ids")):
            assert data[column][:] == ours[column].to_list(), (form, column)


def test_shards_of_every_form_are_the_same_pairs(
    loaded: tuple[Any, pl.DataFrame], tmp_path: Path
) -> None:
    tokenizer, rows = loaded
    expected = preference_data.encode_pairs(tokenizer, rows)
    for form in ("dpo", "reward"):
        files = sorted((shards(tmp_path / form, rows, form=form) / "data").glob("*.parquet"))
        again = preference_data.encode_pairs(tokenizer, preference_data.read_pairs(files))
        assert again.equals(expected)
    files = sorted((shards(tmp_path / "kto", rows, form="kto") / "data").glob("*.parquet"))
    halves = preference_data.encode_pairs(tokenizer, preference_data.read_pairs(files))
    assert preference_data.halves(halves).equals(preference_data.halves(expected))


def test_whatever_is_cut_or_left_out_is_counted(
    loaded: tuple[Any, pl.DataFrame], ctx: Context
) -> None:
    tokenizer, rows = loaded
    encoded = preference_data.encode_pairs(tokenizer, rows)
    prompts = encoded["prompt_ids"].list.len().to_numpy()
    limit = int(np.median(prompts)) + 8
    cut, counts = preference_data.cut_pairs(encoded, limit)
    assert counts["rows_too_long"] == (prompts >= limit).sum() > 0
    whole = preference_data.side_lengths(encoded.filter(pl.col("id").is_in(cut["id"].implode())))
    assert counts["tokens_cut"] == (whole - np.minimum(whole, limit)).sum() > 0
    assert counts["tokens"] == preference_data.side_lengths(cut).sum()
    assert counts["rows"] + counts["rows_too_long"] == len(rows)
    assert preference_data.side_lengths(cut).max() == limit


@pytest.mark.proof
def test_rows_to_imitate_are_trained_on_and_counted(ctx: Context, tinylm: LanguageModel) -> None:
    more = conversations([("Say it.", "It."), ("And?", "So."), ("Unanswered?",)])
    options = {"model": tinylm, "max_steps": 1, "learning_rate": 1e-3, "imitate": more}
    metrics = train(ctx, polite(3), loss=UFT(), **options)
    assert (metrics["rows"], metrics["rows_without_answer"]) == (2 * 3 + 2, 1)
    with pytest.raises(OptionError, match="must be uft or kto with rows to imitate, got dpo"):
        train(ctx, polite(3), loss=DPO(), **options)


def test_sides_that_part_beyond_the_limit_are_no_pair(loaded: tuple[Any, pl.DataFrame]) -> None:
    tokenizer, _ = loaded
    same = "The answer is a long one that both of them begin with"
    rows = pair_frame([
        pair("Why?", f"{same}, so.", f"{same}; no.") | {"id": "0"},
        pair("Why?", "So.", f"{same}.") | {"id": "1"},
        pair("Why?", f"{same}.", None) | {"id": "2"},
    ])  # fmt: skip
    encoded = preference_data.encode_pairs(tokenizer, rows)
    limit = len(encoded["prompt_ids"][0]) + 5
    cut, counts = preference_data.cut_pairs(encoded, limit)
    assert cut["id"].to_list() == ["1", "2"]
    assert (counts["rows_too_long"], counts["rows"], counts["rows_cut"]) == (1, 2, 2)
    assert preference_data.cut_pairs(encoded, 100)[1]["rows_too_long"] == 0


def test_log_probs_are_the_models_own(tinylm: LanguageModel) -> None:
    import torch

    tokenizer, _ = load_tokenizer(tinylm)
    rows = preference_data.encode_pairs(tokenizer, polite(2))
    with trainer_module.quiet():
        model = trainer_module.load_model(tinylm, Full(), 64).eval()
    measured = preference_data.log_probs(model, rows)
    for at, row in enumerate(rows.to_dicts()):
        for which, side in enumerate(("chosen_ids", "rejected_ids")):
            ids = torch.tensor([row["prompt_ids"] + row[side]])
            with torch.inference_mode():
                logs = model(ids).logits[0, :-1].log_softmax(-1)
            own = logs.gather(1, ids[0, 1:, None])[len(row["prompt_ids"]) - 1 :].sum()
            assert measured[at, which] == pytest.approx(float(own), rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "first"),
    [
        pytest.param(DPO(), np.log(2), id="dpo"),
        pytest.param(DPO(sft_weight=0.5), None, id="dpo-sft", marks=pytest.mark.proof),
        pytest.param(IPO(beta=0.05), 100.0, id="ipo", marks=pytest.mark.proof),
        pytest.param(ORPO(), None, id="orpo"),
        pytest.param(KTO(), 0.5, id="kto"),
        pytest.param(UFT(), 0.25, id="uft", marks=pytest.mark.proof),
        pytest.param(DavIR(), np.log(2), id="davir", marks=pytest.mark.proof),
        pytest.param(
            TRL(loss_type=("sigmoid", "apo_zero", "ipo"), loss_weights=(1.0, 0.5, 0.1)),
            np.log(2) + 0.5 + 0.1 * 25, id="trl", marks=pytest.mark.proof,
        ),
    ],
)  # fmt: skip
def test_every_loss_teaches_what_is_chosen(
    loss: Loss, first: float | None, ctx: Context, tinylm: LanguageModel
) -> None:
    """At first policy and reference are one model, whose loss is known by definition."""
    seen: list[tuple[float, float | None]] = []
    ctx.report = lambda done, total: seen.append((done, total))
    result = train(
        ctx, polite(12), polite(6, 20), model=tinylm, loss=loss, max_steps=4, learning_rate=3e-4,
        warmup_ratio=0.0,
    )  # fmt: skip
    if first is not None:
        assert result["losses"][0]["loss"] == pytest.approx(first, abs=1e-4)
    assert result["losses"][-1]["loss"] < result["losses"][0]["loss"]
    held_out = result["held_out"]
    assert held_out["pairs"] == 6
    assert held_out["accuracy"] == 1.0
    assert held_out["accuracy_interval"] == [1.0, 1.0]
    low, high = held_out["margin_interval"]
    assert 0 < low <= held_out["margin"] <= high
    assert held_out["preferred"]["after"] >= held_out["preferred"]["before"]
    assert held_out["prompts_seen"] == 0
    assert seen == [(step, 4) for step in range(1, 5)]
    assert result["trained_tokens"] == ctx.counters["tokens"]
    assert result["rows"] == (24 if isinstance(loss, KTO | UFT) else 12)


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize(
    ("loss", "method"),
    [
        pytest.param(DPO(sft_weight=0.1), Full(), id="dpo", marks=pytest.mark.proof),
        pytest.param(KTO(), LoRA(lora_r=4), id="kto-lora", marks=pytest.mark.proof),
        pytest.param(ORPO(), Full(), id="orpo", marks=pytest.mark.proof),
    ],
)
def test_a_resumed_training_equals_an_undisturbed_one(
    loss: Loss, method: Any, tmp_path: Path, tinylm: LanguageModel, monkeypatch: Any
) -> None:
    """The trainer is that of `train.sft`, whose test of this is among the fast ones."""
    folder = shards(tmp_path / "shards", polite(9), validation_fraction=0.3)
    options = {"model": tinylm, "loss": loss, "method": method, "learning_rate": 1e-3}
    whole, killed = Context.scratch(tmp_path / "whole"), Context.scratch(tmp_path / "killed")
    expected = train(whole, folder, max_steps=4, **options)
    assert expected["held_out"]["pairs"] > 0
    monkeypatch.setattr(trainer_module, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(trainer_module, "SAVING_FRACTION", 1e9)

    def dies(done: float, total: float | None) -> None:
        if done == 3:
            raise Killed

    killed.report = dies
    with pytest.raises(Killed):
        train(killed, folder, max_steps=4, **options)
    steps: list[float] = []
    killed.report = lambda done, total: steps.append(done)
    assert train(killed, folder, max_steps=4, **options) == expected
    assert steps == [3, 4]
    for name, tensor in weights(killed).items():
        assert (tensor == weights(whole)[name]).all(), name
    assert (killed.files / "adapter").is_dir() == isinstance(method, LoRA)


TRAINING = """
import sys
from pathlib import Path
from pipeline.context import Context
from pipeline.models import LanguageModel
from stages._training import trainer
from stages.train.preference import preference

trainer.CHECKPOINT_SECONDS, trainer.SAVING_FRACTION = 0.0, 1e9
ctx = Context.scratch(Path(sys.argv[1]))
ctx.report = lambda done, total: print(int(done), flush=True)
preference(
    ctx, Path(sys.argv[2]), model=LanguageModel(model="data/models/tinylm"), max_steps=6,
    per_device_train_batch_size=2, gradient_accumulation_steps=2, max_length=64,
    learning_rate=1e-3,
)
"""


@pytest.mark.proof
@pytest.mark.parametrize("last", [1, 3, 5])
def test_a_killed_process_goes_on_from_its_checkpoint(last: int, tmp_path: Path) -> None:
    folder = shards(tmp_path / "shards", polite(9), validation_fraction=0.3)

    def start(name: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", TRAINING, str(tmp_path / name), str(folder)]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    whole, _ = start("whole").communicate()
    process = start("killed")
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) == last:
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait(60) == -signal.SIGKILL
    resumed, _ = start("killed").communicate()
    assert whole.split() == ["1", "2", "3", "4", "5", "6"]
    # The checkpoint of the last step may not have been whole yet.
    assert resumed.split() in (whole.split()[last - 1 :], whole.split()[last:])
    for file in ("metrics.json", "model/model.safetensors"):
        written = [next((tmp_path / name).rglob(file)) for name in ("whole", "killed")]
        assert written[0].read_bytes() == written[1].read_bytes()


def test_pairs_and_their_shards_train_the_same_weights(
    tmp_path: Path, tinylm: LanguageModel
) -> None:
    rows = polite(5)
    folder = shards(tmp_path / "shards", rows, rows_per_shard=2)
    results = []
    for name, source in (("rows", rows.reverse()), ("shards", folder)):
        ctx = Context.scratch(tmp_path / name)
        train(ctx, source, model=tinylm, max_steps=1, seed=3)
        results.append((ctx.files / "model/model.safetensors").read_bytes())
    assert results[0] == results[1]


def test_pairs_that_cannot_be_trained_on_are_counted_and_named(
    tmp_path: Path, tinylm: LanguageModel
) -> None:
    odd = [
        pair("q", "a", None),
        pair("q", None, "b"),
        pair("q", "a", "b") | {"id": "marked", "tools": '{"broken"'},
        pair("long " * 80, "a", "b"),
    ]
    rows = pl.concat([polite(2), pair_frame(odd)])
    ctx = Context.scratch(tmp_path / "a")
    result = train(ctx, rows, model=tinylm, num_train_epochs=1, max_steps=None)
    assert {name: n for name, n in result.items() if name.startswith("rows")} == {
        "rows": 2, "rows_cut": 0, "rows_too_long": 1, "rows_refused": 1, "rows_one_sided": 2,
        "rows_reasoning_hidden": 0,
    }  # fmt: skip
    (refused,) = map(json.loads, (ctx.files / "refused.jsonl").read_text().splitlines())
    assert refused["id"] == "marked"
    assert "Tools should" in refused["error"]
    with pytest.raises(UserError, match="no pair to train on by dpo"):
        train(Context.scratch(tmp_path / "b"), pair_frame(odd[:2]), model=tinylm)
    ctx = Context.scratch(tmp_path / "c")
    with pytest.raises(UserError, match="no pair to train on by dpo") as raised:
        train(ctx, pair_frame(odd[2:3]), model=tinylm)
    file = ctx.work / "refused.jsonl"
    assert str(file) in str(raised.value.hint)
    assert json.loads(file.read_text())["id"] == "marked"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "max_steps and num_train_epochs: exactly one must be given, got neither"),
        (
            {"max_steps": 1, "loss": "kto", "per_device_train_batch_size": 1},
            "per_device_train_batch_size must be at least 2 with loss: kto, got 1",
        ),
        (
            {"max_steps": 1, "loss": {"name": "ipo", "sft_weight": 1.0}},
            "loss (ipo) has no option 'sft_weight'",
        ),
        (
            {"max_steps": 1, "loss": {"name": "dpo", "beta": 0.0}},
            "loss.beta must be above 0, got 0.0",
        ),
    ],
)
def test_options_that_no_training_can_have_are_refused(
    options: dict[str, Any], problem: str, tinylm: LanguageModel
) -> None:
    assert problems("train.preference", model=tinylm, **options) == [problem]


BLIND = """\
{%- for m in messages -%}<|im_start|>{{ m['role'] }}
{{ m['content'] }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}"""


def test_pairs_of_which_the_template_swallows_something_are_refused_by_id(
    tmp_path: Path, tinylm: LanguageModel
) -> None:
    """By a template of role and content alone; tinylm's own shows them all."""
    calls = [{"id": "1", "name": "tide", "arguments": json.dumps({"at": n})} for n in (1, 2)]
    sides = {
        "calls": [{"content": None, "tool_calls": [call]} for call in calls],
        "one_call": [{"content": "So.", "tool_calls": calls[:1]}, {"content": "No."}],
        "reasoning": [{"content": "So.", "reasoning": text} for text in ("Hm.", "Oh.")],
    }
    rows = [
        {**pair("q", "a", "b"), "id": name}
        | {
            side: [{"role": "assistant", **turn}]
            for side, turn in zip(("chosen", "rejected"), turns, strict=True)
        }
        for name, turns in sides.items()
    ]
    tools = json.dumps([{"name": "tide", "description": "When it is high."}])
    rows.append({**pair("q", "a", "b"), "id": "tools", "tools": tools})
    blind = tmp_path / "blind.jinja"
    blind.write_text(BLIND)
    whys = {
        "calls": "shows both sides alike",
        "one_call": "leaves out",
        "reasoning": "shows both sides alike",
        "tools": "leaves out the tools",
    }
    every = pl.concat([polite(2), pair_frame(rows)])
    for template, expected in (((), {}), ((str(blind),), whys)):
        ctx = Context.scratch(tmp_path / str(len(template)))
        result = train(ctx, every, model=tinylm, max_steps=1, chat_template=template)
        assert result["rows_refused"] == len(expected)
        file = ctx.files / "refused.jsonl"
        refused = map(json.loads, file.read_text().splitlines()) if expected else ()
        errors = {row["id"]: row["error"] for row in refused}
        assert errors.keys() == expected.keys()
        assert all(why in errors[name] for name, why in expected.items())
