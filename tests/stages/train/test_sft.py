"""Training on shards: what is trained on, that packing changes nothing, that a kill does not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models import LanguageModel
from pipeline.recipe.discovery import describe, find
from pipeline.store.parquet import write_frame
from schemas.records import record_id
from stages._training import dataset
from stages._training import trainer as trainer_module
from stages._training.encoding import encode
from stages._training.hyperparameters import Full, Hyperparameters, LoRA
from stages.train.sft import sft
from tests.support.options import options_of, problems

ROOT = Path(__file__).parents[3]

CONVERSATION = [
    {"role": "system", "content": "You answer briefly."},
    {"role": "user", "content": "Name a colour of the sky."},
    {"role": "assistant", "content": "Blue."},
    {"role": "user", "content": "And at dusk?\nOne word."},
    {"role": "assistant", "content": "Red, \n often."},
]


def rows(count: int = 12) -> pl.DataFrame:
    """Conversations of one to three exchanges, short and long ones."""
    conversations = [CONVERSATION]
    for i in range(1, count):
        turns: list[dict[str, str]] = []
        for turn in range(1 + i % 3):
            turns += [
                {"role": "user", "content": f"Write {i} times the word number {turn}."},
                {"role": "assistant", "content": " ".join([f"number {turn}"] * (1 + 3 * (i % 7)))},
            ]
        conversations.append(turns)
    return pl.DataFrame({"messages": conversations}).with_columns(
        id=pl.col("messages").map_elements(lambda m: record_id(m.to_list()), pl.String)
    )


def write_shards(folder: Path, train: pl.DataFrame, validation: pl.DataFrame | None = None) -> Path:
    (folder / "data").mkdir(parents=True)
    half = train.height // 2
    for i, part in enumerate((train[:half], train[half:])):
        write_frame(folder / f"data/train-{i:05}-of-00002.parquet", part)
    if validation is not None:
        write_frame(folder / "data/validation-00000-of-00001.parquet", validation)
    return folder


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "shards", rows().select("messages", "id"))


def weights(ctx: Context) -> dict[str, Any]:
    return weights_in(ctx.files / "model")


def weights_in(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def metrics(ctx: Context) -> dict[str, Any]:
    return json.loads((ctx.files / "metrics.json").read_text())


def test_supervised_tokens_are_exactly_the_assistants_turns(tinylm: LanguageModel) -> None:
    tokenizer, marked = dataset.tokenizer_for(tinylm)
    encoded = encode(tokenizer, marked, pl.DataFrame({"messages": [CONVERSATION]}))
    labels = encoded["labels"][0].to_numpy()
    turns = np.split(labels, np.flatnonzero(np.diff(labels == dataset.IGNORED)) + 1)
    texts = [tokenizer.decode(turn) for turn in turns if turn[0] != dataset.IGNORED]
    assert texts == ["Blue.<|im_end|>", "Red, \n often.<|im_end|>"]
    whole = tokenizer.decode(encoded["input_ids"][0].to_list())
    assert whole == tokenizer.apply_chat_template(CONVERSATION, tokenize=False)


def test_tokens_and_labels_are_those_of_trl_reading_the_shards(
    tinylm: LanguageModel, shards: Path, tmp_path: Path
) -> None:
    """TRL takes the Parquet files as they are, and masks and cuts them as we do."""
    from datasets import load_dataset
    from trl import SFTConfig, SFTTrainer

    files = [str(f) for f in sorted((shards / "data").glob("train-*.parquet"))]
    with trainer_module.quiet():
        data = load_dataset("parquet", data_files=files, cache_dir=str(tmp_path), split="train")
        tokenizer, marked = dataset.tokenizer_for(tinylm)
        trainer = SFTTrainer(
            model=trainer_module.load_model(tinylm, Full(), 256),
            args=SFTConfig(
                output_dir=str(tmp_path),
                assistant_only_loss=True,
                max_length=60,
                bf16=False,
                use_cpu=True,
                report_to="none",
            ),
            train_dataset=data,
            processing_class=tokenizer,
        )
    ours, counts = dataset.cut(encode(tokenizer, marked, rows()), 60)
    assert counts["rows_cut"] > 0
    assert trainer.train_dataset["input_ids"][:] == ours["input_ids"].to_list()
    assert trainer.train_dataset["labels"][:] == ours["labels"].to_list()


def token_losses(model: Any, batches: Any) -> dict[tuple[int, ...], float]:
    """The loss of each answer token, by the tokens of its row up to it."""
    import torch

    losses_by_tokens = {}
    for batch in batches:
        ids, labels = batch["input_ids"], batch.pop("labels")
        with torch.inference_mode():
            logits = model(**batch, use_cache=False).logits
        losses = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="none"
        ).view(ids.shape[0], -1)
        positions = batch.get("position_ids", torch.arange(ids.shape[1]).expand_as(ids))
        for row, column in (labels[:, 1:] != dataset.IGNORED).nonzero().tolist():
            start = column + 1 - int(positions[row, column + 1])
            losses_by_tokens[tuple(ids[row, start : column + 2].tolist())] = float(
                losses[row, column]
            )
    return losses_by_tokens


@pytest.mark.parametrize("attention", ["sdpa", pytest.param("eager", marks=pytest.mark.proof)])
def test_packed_losses_equal_unpacked_ones(tinylm: LanguageModel, attention: str) -> None:
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    tokenizer, marked = dataset.tokenizer_for(tinylm)
    encoded = encode(tokenizer, marked, rows())
    with trainer_module.quiet():
        model = trainer_module.load_model(tinylm, Full(), 256).eval()
        model.set_attn_implementation(attention)
        blocks = dataset.pack(encoded.drop("error", dataset.HIDDEN), 256)
    assert max(map(len, blocks["seq_lengths"])) > 2
    packed = DataCollatorForLanguageModeling(tokenizer.pad_token_id, padding_free=True)
    plain = DataCollatorForLanguageModeling(tokenizer.pad_token_id)
    columns = blocks.to_list()
    together = token_losses(model, [packed(columns[:2]), packed(columns[2:])])
    separate = token_losses(model, [plain(encoded.drop("error", dataset.HIDDEN).to_dicts())])
    assert together.keys() == separate.keys()
    assert together == pytest.approx(separate, abs=1e-5)
    assert sum(together.values()) == pytest.approx(
        dataset.answer_losses(model, encoded)["loss"].sum(), rel=1e-6
    )


@given(lengths=st.lists(st.integers(0, 9), min_size=1), limit=st.integers(2, 9))
def test_whatever_is_cut_is_counted(lengths: list[int], limit: int) -> None:
    frame = pl.DataFrame(
        {"input_ids": [list(range(n)) for n in lengths], "labels": [[-100] * 3] * len(lengths)},
        {"input_ids": pl.List(pl.Int32), "labels": pl.List(pl.Int32)},
    ).with_columns(labels=pl.col("input_ids").list.eval(
        pl.when(pl.element() >= 3).then(pl.element()).otherwise(-100)
    ))  # fmt: skip
    trained, counts = dataset.cut(frame, limit)
    kept = [min(n, limit) for n in lengths if min(n, limit) > 3]
    assert trained["input_ids"].list.len().to_list() == kept
    assert counts == {
        "rows": len(kept),
        "tokens": sum(kept),
        "answer_tokens": sum(n - 3 for n in kept),
        "rows_cut": sum(n > limit for n in lengths),
        "tokens_cut": sum(max(n - limit, 0) for n in lengths),
        "rows_without_answer": len(lengths) - len(kept),
        "rows_refused": 0,
    }


def test_a_training_gives_a_loadable_better_model_and_says_what_it_did(
    ctx: Context, tinylm: LanguageModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    mute = pl.DataFrame({"messages": [[{"role": "user", "content": "Nobody answers."}]], "id": "x"})
    train = pl.concat([rows(24).select("messages", "id"), mute])
    folder = write_shards(tmp_path / "s", train, train[:6])
    seen: list[tuple[float, float | None]] = []
    ctx.report = lambda done, total: seen.append((done, total))
    sft(
        ctx,
        folder,
        model=tinylm,
        num_train_epochs=2,
        learning_rate=3e-4,
        max_length=64,
        gradient_accumulation_steps=4,
    )
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    result = metrics(ctx)
    assert result["rows"] + result["rows_without_answer"] == 25
    assert result["rows_cut"] > 0
    assert result["rows_without_answer"] >= 1
    assert result["trained_tokens"] == 2 * result["tokens"] == ctx.counters["tokens"]
    assert seen == [(step, result["steps"]) for step in range(1, result["steps"] + 1)]
    assert [entry["step"] for entry in result["losses"]] == list(range(1, result["steps"] + 1))
    assert result["validation"]["after"] < result["validation"]["before"]
    loaded = AutoModelForCausalLM.from_pretrained(ctx.files / "model")
    tokenizer = AutoTokenizer.from_pretrained(ctx.files / "model")
    encoded, _ = dataset.cut(encode(tokenizer, tokenizer.chat_template, train[:6]), 64)
    again = dataset.answer_losses(loaded, encoded).sum()
    assert again["loss"][0] / again["tokens"][0] == pytest.approx(result["validation"]["after"])


def test_order_and_sharding_of_the_rows_do_not_matter(
    tmp_path: Path, shards: Path, tinylm: LanguageModel
) -> None:
    other = write_shards(tmp_path / "other", rows().reverse().select("messages", "id"))
    results = []
    for name, folder in (("a", shards), ("b", other)):
        ctx = Context.scratch(tmp_path / name)
        sft(ctx, folder, model=tinylm, max_steps=2, gradient_accumulation_steps=2, max_length=64)
        results.append((ctx.files / "model/model.safetensors").read_bytes())
    assert results[0] == results[1]


TRIALS = ROOT.parent / "shared/trials"
STRICT = """{%- for m in messages -%}
{%- if m['role'] == 'system' -%}{{ raise_exception('no system turns') }}{%- endif -%}
{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}
{{ raise_exception('roles must alternate') }}{%- endif -%}
{%- if m['role'] == 'assistant' -%}
{{ 'A: ' }}{% generation %}{{ m['content'] + eos_token }}{% endgeneration %}
{%- else -%}{{ 'Q: ' + m['content'] }}{%- endif -%}
{%- endfor -%}{%- if add_generation_prompt -%}{{ 'A: ' }}{%- endif -%}"""


def openai_turn(role: str, content: str | None, call: str | None = None) -> dict[str, Any]:
    """A turn as shards have it; call: the arguments of a call, as JSON."""
    function = {"name": "tide", "arguments": call}
    calls = None if call is None else [{"id": "c1", "type": "function", "function": function}]
    return {"role": role, "content": content, "tool_calls": calls, "reasoning_content": None}


def write_rich_shards(folder: Path, rows: dict[str, list[dict[str, Any]]]) -> Path:
    """Rows by id, of which those with calls have tools."""
    tools = ['{"type": "function", "function": {"name": "tide"}}']
    table = [
        {"id": id_, "messages": messages, "tools": tools if "call" in id_ else None}
        for id_, messages in rows.items()
    ]
    (folder / "data").mkdir(parents=True)
    write_frame(folder / "data/train-00000-of-00001.parquet", pl.DataFrame(table))
    return folder


def test_rows_that_the_template_cannot_show_are_left_out_counted_and_named(
    ctx: Context, tinylm: LanguageModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ask, say = openai_turn("user", "Name a gas."), openai_turn("assistant", "Neon.")
    folder = write_rich_shards(
        tmp_path / "s",
        {
            "a-good": [ask, say],
            "b-system": [openai_turn("system", "Be brief."), ask, say],
            "c-twice": [ask, ask, say],
            "d-call": [ask, openai_turn("assistant", "Look.", "{}")],
            "e-token": [ask, openai_turn("assistant", "Neon.<|im_end|>")],
            "f-good": [ask, say, ask, say],
        },
    )
    template = tmp_path / "strict.jinja"
    template.write_text(STRICT)
    options = {"max_steps": 1, "gradient_accumulation_steps": 1, "max_length": 64}
    sft(ctx, folder, model=tinylm, chat_template=(str(template),), **options)  # type: ignore[arg-type]
    result = metrics(ctx)
    assert (result["rows"], result["rows_refused"], result["rows_without_answer"]) == (3, 3, 0)
    refused = list(map(json.loads, (ctx.files / "refused.jsonl").read_text().splitlines()))
    assert [(row["split"], row["id"]) for row in refused] == [
        ("train", id_) for id_ in ("b-system", "c-twice", "d-call")
    ]
    whys = ["no system turns", "must alternate", "leaves out the tools"]
    assert all(why in row["error"] for row, why in zip(refused, whys, strict=True))
    assert "3 rows are left out" in caplog.text


def test_where_the_template_refuses_all_rows_they_are_named_all_the_same(
    ctx: Context, tinylm: LanguageModel, tmp_path: Path
) -> None:
    ask, say = openai_turn("user", "Name a gas."), openai_turn("assistant", "Neon.")
    turns = [openai_turn("system", "Be brief."), ask, say]
    folder = write_rich_shards(tmp_path / "s", {"a": turns, "b": turns})
    template = tmp_path / "strict.jinja"
    template.write_text(STRICT)
    with pytest.raises(UserError, match="no row has an answer") as raised:
        sft(ctx, folder, model=tinylm, chat_template=(str(template),), max_steps=1)
    assert "'rows_refused': 2" in str(raised.value.why)
    assert "the first refused row is a: " in str(raised.value.why)
    file = ctx.work / "refused.jsonl"
    assert str(file) in str(raised.value.hint)
    refused = list(map(json.loads, file.read_text().splitlines()))
    assert [row["id"] for row in refused] == ["a", "b"]
    assert all("no system turns" in row["error"] for row in refused)


def test_tool_rows_are_trained_on_for_real(
    ctx: Context, tinylm: LanguageModel, tmp_path: Path
) -> None:
    """The model learns the call: its loss on it falls, while other turns have no loss."""
    call = openai_turn("assistant", None, '{"port": "Oban"}')
    height = {**openai_turn("tool", '{"height_m": 3.1}'), "tool_call_id": "c1"}
    last = openai_turn("assistant", "It is 3.1 m.")
    rich = {f"call-{i}": [openai_turn("user", f"Tide {i}?"), call, height, last] for i in range(4)}
    folder = write_rich_shards(tmp_path / "s", rich)
    sft(
        ctx, folder, model=tinylm, max_steps=6, gradient_accumulation_steps=2, max_length=128,
        learning_rate=1e-3, warmup_ratio=0.0, packing=False, loss_on=("calls",),
    )  # fmt: skip
    result = metrics(ctx)
    tokenizer, _ = dataset.tokenizer_for(tinylm)
    text = '<tool_call>\n{"name": "tide", "arguments": {"port": "Oban"}}\n</tool_call><|im_end|>'
    assert result["answer_tokens"] == 4 * len(tokenizer(text)["input_ids"])
    assert result["rows_refused"] == 0
    assert result["losses"][-1]["loss"] < 0.7 * result["losses"][0]["loss"]
    assert not (ctx.files / "refused.jsonl").exists()


@pytest.mark.skipif(not TRIALS.is_dir(), reason="needs the trials beside the checkout")
def test_the_trial_of_a_template_that_refuses_system_turns(
    ctx: Context, tinylm: LanguageModel, tmp_path: Path
) -> None:
    lines = (TRIALS / "system-turn.jsonl").read_text("utf-8").splitlines()
    chats = [json.loads(line)["messages"] for line in lines]
    train = pl.DataFrame({"messages": chats, "id": ["system", "plain"]})
    folder = write_shards(tmp_path / "s", train)
    template = (str(TRIALS / "strict-template.jinja"),)
    sft(ctx, folder, model=tinylm, max_steps=1, max_length=64, chat_template=template)
    assert metrics(ctx)["rows"] == metrics(ctx)["rows_refused"] == 1
    assert json.loads((ctx.files / "refused.jsonl").read_text())["id"] == "system"


class Killed(Exception):
    """Stands for the end of the process."""


def dies_at(step: int) -> Callable[[float, float | None], None]:
    def report(done: float, total: float | None) -> None:
        if done == step:
            raise Killed

    return report


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(Full(), id="full"),
        pytest.param(LoRA(), id="lora", marks=pytest.mark.proof),
    ],
)
def test_a_resumed_training_equals_an_undisturbed_one(
    method: Any, tmp_path: Path, shards: Path, tinylm: LanguageModel, monkeypatch: Any
) -> None:
    def train(ctx: Context) -> None:
        sft(
            ctx, shards, model=tinylm, max_steps=5, gradient_accumulation_steps=2, max_length=64,
            method=method, learning_rate=1e-3,
        )  # fmt: skip

    whole, killed = Context.scratch(tmp_path / "whole"), Context.scratch(tmp_path / "killed")
    train(whole)
    monkeypatch.setattr(trainer_module, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(trainer_module, "SAVING_FRACTION", 1e9)
    killed.report = dies_at(4)
    with pytest.raises(Killed):
        train(killed)
    checkpoints = sorted((killed.work / "checkpoints").glob("checkpoint-*"))
    assert [path.name for path in checkpoints] == ["checkpoint-2", "checkpoint-3"]
    # The last one is half written: it must be passed over, and the one before it used.
    torn = next(checkpoints[1].glob("*.safetensors"))
    torn.write_bytes(torn.read_bytes()[:100])
    steps: list[float] = []
    killed.report = lambda done, total: steps.append(done)
    train(killed)
    assert steps == [3, 4, 5]
    assert metrics(killed) == metrics(whole)
    expected = weights(whole)
    for name, tensor in weights(killed).items():
        assert (tensor == expected[name]).all(), name


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(Full(), id="full", marks=pytest.mark.proof),
        pytest.param(LoRA(), id="lora", marks=pytest.mark.proof),
    ],
)
def test_the_weights_after_an_epoch_are_those_of_a_training_that_ends_there(
    method: Any, tmp_path: Path, shards: Path, tinylm: LanguageModel, monkeypatch: Any
) -> None:
    """They survive a kill after which the training goes on from beyond their epoch."""

    def train(ctx: Context, epochs: float, checkpoints: tuple[int, ...] = ()) -> None:
        sft(
            ctx, shards, model=tinylm, num_train_epochs=epochs, gradient_accumulation_steps=2,
            max_length=128, method=method, learning_rate=1e-3, lr_scheduler_type="constant",
            warmup_ratio=0.0, checkpoints=checkpoints, packing=False,
        )  # fmt: skip

    once, twice = Context.scratch(tmp_path / "once"), Context.scratch(tmp_path / "twice")
    train(once, 1.0)
    steps = metrics(once)["steps"]
    monkeypatch.setattr(trainer_module, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(trainer_module, "SAVING_FRACTION", 1e9)
    twice.report = dies_at(steps + 3)
    with pytest.raises(Killed):
        train(twice, 2.0, (1, 2))
    resumed: list[float] = []
    twice.report = lambda done, total: resumed.append(done)
    train(twice, 2.0, (1, 2))
    assert resumed[0] > steps
    kept = twice.files / "checkpoints"
    assert sorted(path.name for path in kept.iterdir()) == ["epoch-1", "epoch-2"]
    for folder, ctx in (("epoch-1", once), ("epoch-2", twice)):
        own = weights_in(kept / folder)
        for name, tensor in weights(ctx).items():
            assert (tensor == own[name]).all(), (folder, name)
    assert not (kept / "epoch-1/complete.json").exists()
    assert (kept / "epoch-1/adapter").is_dir() == isinstance(method, LoRA)


def test_an_adapter_is_saved_beside_the_weights_that_it_is_merged_into(
    ctx: Context, tinylm: LanguageModel, shards: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    method = LoRA(lora_r=4)
    sft(ctx, shards, model=tinylm, max_steps=2, method=method, learning_rate=1e-2, max_length=64)
    with trainer_module.quiet():
        base = AutoModelForCausalLM.from_pretrained(tinylm.model, dtype="float32")
        before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
        merged = PeftModel.from_pretrained(base, ctx.files / "adapter").merge_and_unload()
    saved = weights(ctx)
    for name, tensor in merged.state_dict().items():
        if name in saved:
            assert (tensor - saved[name]).abs().max() < 1e-6, name
    changed = [name for name in saved if (saved[name] != before[name]).any()]
    assert len(changed) == 8 * 7  # the linear layers of the eight blocks, and nothing else


def test_a_template_without_marks_is_refused_before_anything_runs(
    tmp_path: Path, tinylm: LanguageModel
) -> None:
    check = describe("train.sft", sft).check
    assert check is not None
    options: dict[str, Any] = {"model": tinylm, "max_steps": 1}
    check(options_of(sft, **options))
    own = (ROOT / "data/models/tinylm/chat_template.jinja").read_text()
    unmarked = tmp_path / "unmarked.jinja"
    unmarked.write_text(own.replace("{%- generation -%}", "").replace("{%- endgeneration -%}", ""))
    no_end = tmp_path / "no_end.jinja"
    ending = "{{- '<|im_end|>' -}}"
    marked_end = ending + "{%- endgeneration -%}"
    assert marked_end in own
    no_end.write_text(own.replace(marked_end, "{%- endgeneration -%}" + ending))
    with pytest.raises(UserError, match="chat_template"):
        check(options_of(sft, **options | {"chat_template": (str(unmarked),)}))
    with pytest.raises(UserError, match="end token"):
        dataset.tokenizer_for(tinylm, (str(no_end),))
    other = LanguageModel(model=tinylm.model, chat_template=str(unmarked))
    with pytest.raises(UserError, match="chat_template"):
        check(options_of(sft, **options | {"model": other}))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "max_steps and num_train_epochs: exactly one must be given, got neither"),
        (
            {"max_steps": 1, "num_train_epochs": 1.0},
            "max_steps and num_train_epochs: exactly one must be given, got both",
        ),
        ({"max_steps": 0}, "max_steps must be at least 1, got 0"),
        ({"max_steps": 1, "learning_rate": 0.0}, "learning_rate must be above 0, got 0.0"),
        ({"max_steps": 1, "warmup_ratio": 1.0}, "warmup_ratio must be below 1, got 1.0"),
        ({"max_steps": 1, "max_length": 1}, "max_length must be at least 2, got 1"),
        ({"max_steps": 1, "lora_r": 8}, "'lora_r' is an option of method: lora or method: dora"),
        (
            {"max_steps": 1, "checkpoints": [1]},
            "checkpoints must be left out without num_train_epochs, got [1]",
        ),
        (
            {"num_train_epochs": 2.0, "checkpoints": [1, 3]},
            "checkpoints must be at most num_train_epochs, 2, got 3",
        ),
        (
            {"max_steps": 1, "method": {"name": "lora", "lora_r": 0}},
            "method.lora_r must be at least 1, got 0",
        ),
    ],
)
def test_options_that_no_training_can_have_are_refused(
    options: dict[str, Any], problem: str, tinylm: LanguageModel
) -> None:
    assert problems("train.sft", model=tinylm, **options) == [problem]


@pytest.mark.parametrize(
    ("name", "own_defaults"),
    [
        ("train.sft", set()),
        ("report.ablation", set()),
        ("train.preference", {"learning_rate", "warmup_ratio", "per_device_train_batch_size"}),
    ],
)
def test_stages_train_with_the_same_hyperparameters(name: str, own_defaults: set[str]) -> None:
    """The options have the names, types and defaults of the one dataclass, seed included."""
    options = {option.name: option for option in find(name).options}
    hints = get_type_hints(Hyperparameters, include_extras=True)
    different = set()
    for field, default in asdict(Hyperparameters()).items():
        option = options[field]
        assert option.annotation == hints[field], field
        own = asdict(option.default) if field == "method" else option.default
        if own != default:
            different.add(field)
    assert different == own_defaults


def test_rows_longer_than_the_model_reads_are_refused(
    ctx: Context, tinylm: LanguageModel, shards: Path
) -> None:
    with pytest.raises(UserError, match="at most 2048"):
        sft(ctx, shards, model=tinylm, max_steps=1, max_length=4096)


def test_a_loss_that_is_not_finite_stops_with_advice(
    ctx: Context, tinylm: LanguageModel, shards: Path
) -> None:
    with pytest.raises(UserError, match="lower learning_rate"):
        sft(
            ctx, shards, model=tinylm, max_steps=4, learning_rate=1e30, warmup_ratio=0.0,
            max_length=64,
        )  # fmt: skip


KILLED = """
import sys
from pathlib import Path
from pipeline.context import Context
from pipeline.models import LanguageModel
from stages._training import trainer
from stages.train.sft import sft
trainer.CHECKPOINT_SECONDS, trainer.SAVING_FRACTION = 0.0, 1e9
sft(Context.scratch(Path(sys.argv[1])), Path(sys.argv[2]),
    model=LanguageModel(model="data/models/tinylm"), max_steps=40,
    gradient_accumulation_steps=1, max_length=64, learning_rate=1e-3)
"""


@pytest.mark.proof
def test_sigkill_at_any_instant_changes_nothing(tmp_path: Path, shards: Path) -> None:
    def start(name: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", KILLED, tmp_path / name, shards], cwd=ROOT)

    assert start("whole").wait() == 0
    for kill in range(4):
        process = start("killed")
        while not (tmp_path / "killed/work/checkpoints").exists():
            time.sleep(0.05)
        time.sleep(0.3 + 1.37 * kill)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert start("killed").wait() == 0
    for file in ("metrics.json", "model/model.safetensors"):
        whole, killed = (tmp_path / f"{name}/files/{file}" for name in ("whole", "killed"))
        assert whole.read_bytes() == killed.read_bytes()
