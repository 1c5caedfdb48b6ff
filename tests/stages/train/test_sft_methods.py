"""The options of train.sft that are methods of their own, trained for real with tinylm."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from pipeline.models import LanguageModel
from pipeline.store.parquet import write_frame
from stages._training import dataset
from stages._training import trainer as trainer_module
from stages._training.arrangement import Reader
from stages._training.encoding import encode
from stages._training.half import trained_half
from stages._training.hyperparameters import DoRA, Full, Half, LoRA
from stages._training.indicators import Context as ContextMark
from stages._training.indicators import Control, Metadata, with_words
from stages._training.losses import FIGA, KL, Intuitive, Minor, Mixup, Unlikelihood
from stages._training.losses.base import DFT, NLL
from stages._training.noise import Masked, NEFTune
from stages._training.objective import EarlyStopping
from stages._training.schedules import WSD, Infinite, MinLR, infinite, scheduler_arguments
from stages.train.sft import sft
from tests.support.options import problems

ROWS = 12


def rows(count: int = ROWS) -> pl.DataFrame:
    turns = [
        [
            {"role": "user", "content": f"Write {i} times the word number."},
            {"role": "assistant", "content": " ".join(["number"] * (1 + 2 * (i % 5)))},
        ]
        for i in range(count)
    ]
    return pl.DataFrame(
        {
            "id": [f"{i:032x}" for i in range(count)],
            "messages": turns,
            "weight": [float(i % 3) for i in range(count)],
            "first": [f"word word {i}" for i in range(count)],
            "sure": [float(i) for i in range(count)],
            "sources": [["a.org"] if i % 2 else ["b.org"] for i in range(count)],
        }
    )


def write_shards(folder: Path, train: pl.DataFrame, validation: int = 0) -> Path:
    (folder / "data").mkdir(parents=True)
    write_frame(folder / "data/train-00000-of-00001.parquet", train)
    if validation:
        write_frame(folder / "data/validation-00000-of-00001.parquet", train[:validation])
    return folder


def train(
    folder: Path, shards: Path, model: LanguageModel, ctx: Context | None = None, **options: Any
) -> dict[str, Any]:
    """The metrics of a short training, and the weights that it gave."""
    from safetensors.torch import load_file

    ctx = ctx or Context.scratch(folder)
    settings = {
        "max_steps": 2, "learning_rate": 1e-3, "max_length": 64, "gradient_accumulation_steps": 2,
        "warmup_ratio": 0.0, "lr_scheduler_type": "constant",
    }  # fmt: skip
    sft(ctx, shards, model=model, **(settings | options))
    metrics = json.loads((ctx.files / "metrics.json").read_text())
    return metrics | {"weights": load_file(ctx.files / "model/model.safetensors"), "ctx": ctx}


def losses(metrics: dict[str, Any]) -> list[float]:
    return [entry["loss"] for entry in metrics["losses"]]


@pytest.mark.proof
def test_neutral_settings_train_as_the_plain_loss_does(
    tmp_path: Path, tinylm: LanguageModel
) -> None:
    """Packed blocks and padded batches alike, divided by the count of the whole step."""
    shards = write_shards(tmp_path / "s", rows().with_columns(weight=pl.lit(1.0)))
    neutral: list[dict[str, Any]] = [
        {"loss": KL(beta=0)},
        {"loss": Intuitive(own_fraction=0, gamma=None)},
        {"weight_column": "weight"},
        {"noise": Masked(rate=0)},
    ]
    padded = {"packing": False, "per_device_train_batch_size": 2}
    for name, layout, several in (("packed", {}, neutral), ("padded", padded, neutral[:1])):
        plain = losses(train(tmp_path / name, shards, tinylm, **layout))
        for number, options in enumerate(several):
            folder = tmp_path / f"{name}-{number}"
            other = losses(train(folder, shards, tinylm, **layout, **options))
            assert other == pytest.approx(plain, rel=1e-5), options


@pytest.mark.proof
@pytest.mark.parametrize("method", [Full(), LoRA(lora_r=2)], ids=lambda method: method.name)
def test_the_divergence_from_the_base_is_none_before_the_first_step(
    method: Any, tmp_path: Path, tinylm: LanguageModel
) -> None:
    shards = write_shards(tmp_path / "s", rows())
    steps = train(tmp_path / "kl", shards, tinylm, loss=KL(), method=method)["losses"]
    assert abs(steps[0]["kl"]) < 1e-5
    assert steps[1]["kl"] > 1e-4


@pytest.fixture(scope="module")
def plain_weights(
    tmp_path_factory: pytest.TempPathFactory, tinylm: LanguageModel
) -> dict[str, Any]:
    """The weights of the plain training that the methods are set against."""
    folder = tmp_path_factory.mktemp("plain")
    shards = write_shards(folder / "s", rows())
    result: dict[str, Any] = train(folder / "t", shards, tinylm)["weights"]
    return result


@pytest.mark.proof
@pytest.mark.parametrize(
    "options",
    [
        {"loss": DFT()},
        {"loss": Minor()},
        {"loss": Minor(), "method": LoRA(lora_r=2)},
        {"loss": Intuitive()},
        {"loss": Unlikelihood()},
        {"loss": FIGA(initial="first")},
        {"loss": Mixup(perplexities=("sure",)), "packing": False, "per_device_train_batch_size": 2},
        {"noise": NEFTune(alpha=5), "packing": False},
        {"noise": Masked(rate=0.5, ramp=0)},
        {"weight_column": "weight"},
        {"indicator": Metadata(cooldown=0.5)},
        {"method": DoRA(lora_r=2)},
        {"lr_scheduler_type": Infinite()},
        {"loss_on": ("instruction", "content", "calls", "reasoning")},
    ],
    ids=str,
)
def test_a_method_trains_and_changes_the_weights(
    options: dict[str, Any],
    tmp_path: Path,
    tinylm: LanguageModel,
    plain_weights: dict[str, Any],
) -> None:
    shards = write_shards(tmp_path / "s", rows())
    other = train(tmp_path / "other", shards, tinylm, **options)
    assert all(math.isfinite(loss) for loss in losses(other))
    assert any((plain_weights[name] != other["weights"][name]).any() for name in plain_weights)


@pytest.mark.proof
def test_half_fine_tuning_leaves_the_frozen_weights_as_they_are(
    tmp_path: Path, tinylm: LanguageModel
) -> None:
    from transformers import AutoModelForCausalLM

    shards = write_shards(tmp_path / "s", rows())
    result = train(tmp_path / "t", shards, tinylm, method=Half(), weight_decay=0.1)
    before = AutoModelForCausalLM.from_pretrained(tinylm.model)
    shapes = {name: tuple(value.shape) for name, value in before.named_parameters()}
    trained = trained_half(shapes, seed=0)
    for name, value in before.named_parameters():
        is_equal = bool((result["weights"][name] == value.to(result["weights"][name].dtype)).all())
        assert is_equal == (name not in trained), name


def test_half_of_each_part_is_trained_and_each_seed_draws_another() -> None:
    names = [
        f"model.layers.{layer}.{part}.weight"
        for layer in range(8)
        for part in (
            *(f"self_attn.{p}_proj" for p in "qkvo"),
            *(f"mlp.{p}_proj" for p in ("gate", "up", "down")),
            "input_layernorm",
            "post_attention_layernorm",
        )
    ]
    shapes: dict[str, tuple[int, ...]] = {
        name: (4,) if "norm" in name else (4, 4) for name in names
    }
    half = trained_half(shapes | {"model.embed_tokens.weight": (4, 4)}, seed=0)
    assert "model.embed_tokens.weight" in half
    ffn = []
    for layer in range(8):
        own = [name for name in half if f".{layer}." in name]
        assert sum("self_attn" in name for name in own) == 2
        ffn.append(sum("mlp" in name for name in own))
    assert sorted(ffn) == [1] * 4 + [2] * 4
    assert sum("norm" in name for name in half) == 8
    assert half != trained_half(shapes | {"model.embed_tokens.weight": (4, 4)}, seed=1)


@pytest.mark.proof
def test_a_training_stops_early_and_keeps_the_best_weights(
    tmp_path: Path, tinylm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = write_shards(tmp_path / "s", rows(), validation=3)
    stop = EarlyStopping(eval_steps=1, patience=1, min_delta=100.0)
    result = train(tmp_path / "t", shards, tinylm, max_steps=9, early_stopping=stop)
    assert result["steps"] == len(result["losses"]) < 9
    assert result["validation"]["after"] < result["validation"]["before"]
    monkeypatch.setattr(trainer_module, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(trainer_module, "SAVING_FRACTION", 1e9)
    patient = {"early_stopping": replace(stop, patience=3), "max_steps": 9}
    whole = train(tmp_path / "w", shards, tinylm, **patient)
    assert whole["steps"] == 4

    def dies(done: float, total: float | None) -> None:
        if done == 4:
            raise KeyboardInterrupt

    killed = Context.scratch(tmp_path / "k")
    killed.report = dies
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "k", shards, tinylm, killed, **patient)
    assert train(tmp_path / "k", shards, tinylm, **patient)["losses"] == whole["losses"]
    bare = write_shards(tmp_path / "bare", rows())
    with pytest.raises(OptionError, match="no split validation"):
        train(tmp_path / "u", bare, tinylm, early_stopping=stop)


@pytest.mark.proof
def test_replayed_rows_are_a_fraction_of_all(tmp_path: Path, tinylm: LanguageModel) -> None:
    shards = write_shards(tmp_path / "s", rows())
    old = write_shards(tmp_path / "old", rows(3))
    result = train(tmp_path / "t", shards, tinylm, replay=old, replay_fraction=0.25)
    assert result["rows_replayed"] == 4


def test_masked_tokens_are_those_of_the_answer_and_the_labels_stay() -> None:
    import torch

    ids = torch.arange(1, 1001)[None]
    labels = torch.where(ids > 500, ids, -100)
    generator = torch.Generator().manual_seed(0)
    masked = Masked(rate=0.4, ramp=0.5)
    half = masked.masked(ids, labels, 0, progress=0.25, generator=generator)
    assert (half[ids <= 500] == ids[ids <= 500]).all()
    assert 0.15 < float((half[ids > 500] == 0).float().mean()) < 0.25
    none = masked.masked(ids, labels, 0, progress=0.0, generator=generator)
    assert (none == ids).all()


def test_neftune_noise_is_within_the_published_bound() -> None:
    """The library's: length 10, width 64, alpha 5 gives at most 0.19764; none in evaluation."""
    import torch
    from transformers.integrations.neftune import neftune_post_forward_hook

    embedding = torch.nn.Embedding(3, 64)
    embedding.neftune_noise_alpha = 5  # type: ignore[assignment]
    embedding.register_forward_hook(neftune_post_forward_hook)
    ids = torch.zeros(1, 10, dtype=torch.long)
    noise = (embedding(ids) - embedding.weight[0]).abs().max()
    assert 0.15 < float(noise) <= 5 / math.sqrt(640) + 1e-6
    embedding.eval()
    assert (embedding(ids) == embedding.weight[0]).all()


def test_an_indicator_is_written_where_users_speak() -> None:
    def first(indicator: Any) -> list[str]:
        written = with_words(rows(4), indicator, seed=0)
        assert all(turns[-1] == own[-1] for turns, own in zip(
            written["messages"].to_list(), rows(4)["messages"].to_list(), strict=True
        ))  # fmt: skip
        return [turns[0]["content"] for turns in written["messages"].to_list()]

    plain = [turns[0]["content"] for turns in rows(4)["messages"].to_list()]
    urls = ["URL: b.org\n\n", "URL: a.org\n\n"] * 2
    assert first(Metadata()) == [url + text for url, text in zip(urls, plain, strict=True)]
    assert first(ContextMark(column="sure", threshold=2.0)) == [
        *plain[:2], *(f"{text} [IND]" for text in plain[2:]),
    ]  # fmt: skip
    control = Control(column="sure", threshold=2.0, drop=0.0)
    words = ["<|misaligned|>"] * 2 + ["<|aligned|>"] * 2
    assert first(control) == [word + text for word, text in zip(words, plain, strict=True)]
    assert first(Control(column="sure", threshold=2.0, drop=1.0)) == plain
    assert first(Metadata(text="{a}: {}. ")) == [
        f"{{a}}: {url}. {text}" for url, text in zip(["b.org", "a.org"] * 2, plain, strict=True)
    ]


@pytest.mark.parametrize("indicator", [Control, ContextMark])
@pytest.mark.parametrize("none", [None, float("nan")])
def test_a_row_without_a_score_gets_no_word(indicator: Any, none: float | None) -> None:
    unknown = rows(3).with_columns(sure=pl.Series([none, 5.0, 1.0], dtype=pl.Float64))
    written = with_words(unknown, indicator(column="sure", threshold=2.0), seed=0)
    assert written["messages"][0].to_list() == unknown["messages"][0].to_list()
    assert written["messages"][1].to_list() != unknown["messages"][1].to_list()


def test_a_score_that_is_no_number_gets_no_word() -> None:
    some = rows(4).with_columns(sure=pl.Series([math.nan, None, math.inf, 3.0]))
    control = Control(column="sure", threshold=2.0, drop=0.0)
    before, _ = control.words(some, "x")
    assert list(before) == ["", "", "", "<|aligned|>"]
    _, behind = ContextMark(column="sure", threshold=2.0).words(some, "x")
    assert list(behind) == ["", "", "", " [IND]"]
    for text in (Control(column="id", threshold=2.0), ContextMark(column="id", threshold=2.0)):
        with pytest.raises(UserError, match="the indicator's column id must hold numbers"):
            text.words(some, "x")


def test_response_tuning_reads_no_word_of_the_user(tmp_path: Path, tinylm: LanguageModel) -> None:
    tokenizer, marked = dataset.tokenizer_for(tinylm)
    shards = write_shards(tmp_path / "s", rows(4), validation=2)
    plain = Reader(tokenizer, marked, 256)
    reader = replace(plain, response_only=True)
    alone, counts = reader.training(shards)
    whole, before = plain.training(shards)
    assert counts["answer_tokens"] == before["answer_tokens"]
    assert alone["id"].to_list() == whole["id"].to_list()
    empty = tokenizer.apply_chat_template([{"role": "user", "content": ""}], tokenize=False)
    for ids, labels, full in zip(
        alone["input_ids"].to_list(), alone["labels"].to_list(), whole["labels"].to_list(),
        strict=True,
    ):  # fmt: skip
        learned = [label for label in labels if label != dataset.IGNORED]
        assert learned == [label for label in full if label != dataset.IGNORED]
        read = [i for i, label in zip(ids, labels, strict=True) if label == dataset.IGNORED]
        assert tokenizer.decode(read).startswith(empty)
        assert "write" not in tokenizer.decode(read).lower()
    # What tells whether instructions are followed still has them.
    assert reader.validation(shards).equals(plain.validation(shards))


def test_loss_on_the_instruction_leaves_out_the_template(tinylm: LanguageModel) -> None:
    tokenizer, marked = dataset.tokenizer_for(tinylm)
    turns = [
        {"role": "system", "content": "user"},
        {"role": "user", "content": " user\n"},
        {"role": "assistant", "content": "Blue."},
        {"role": "user", "content": "And at dusk?"},
        {"role": "assistant", "content": "Red."},
    ]
    frame = pl.DataFrame({"messages": [turns]})

    def scored(*loss_on: Any) -> list[str]:
        encoded = encode(tokenizer, marked, frame, loss_on)
        runs: list[list[int]] = [[]]
        for label in encoded["labels"][0].to_list():
            runs = [*runs, []] if label == dataset.IGNORED else [*runs[:-1], [*runs[-1], label]]
        return [tokenizer.decode(run) for run in runs if run]

    answers = ["Blue.<|im_end|>", "Red.<|im_end|>"]
    assert scored("content", "calls", "reasoning") == answers
    both = scored("instruction", "content", "calls", "reasoning")
    assert [text.strip() for text in both] == [
        "user",
        "user",
        answers[0],
        "And at dusk?",
        answers[1],
    ]
    assert [text.strip() for text in scored("instruction")] == ["user", "user", "And at dusk?"]
    everything = scored("instruction", "template", "content", "calls", "reasoning")
    assert "".join(everything) == tokenizer.apply_chat_template(turns, tokenize=False)


def test_schedules_give_the_rates_that_they_are_named_for() -> None:
    import torch
    from transformers import get_scheduler

    def rates(schedule: Any, steps: int = 20, warmup: int = 4) -> list[float]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        if isinstance(schedule, Infinite):
            scheduler = infinite(optimizer, schedule, warmup, steps)
        else:
            arguments = scheduler_arguments(schedule, steps)
            scheduler = get_scheduler(
                arguments["lr_scheduler_type"], optimizer, warmup, steps,
                arguments.get("lr_scheduler_kwargs"),
            )  # fmt: skip
        result = []
        for _ in range(steps):
            result.append(float(optimizer.param_groups[0]["lr"]))
            optimizer.step()
            scheduler.step()
        return [*result, float(optimizer.param_groups[0]["lr"])]

    warmup = [0.0, 0.25, 0.5, 0.75, 1.0]
    for schedule in ("constant", "linear", "cosine", MinLR(), WSD(), Infinite()):
        assert rates(schedule)[:5] == pytest.approx(warmup)
    assert rates("constant")[4:] == [1.0] * 17
    assert rates(MinLR(min_lr_ratio=0.1))[-1] == pytest.approx(0.1)
    wsd = rates(WSD(decay_ratio=0.25, decay_type="linear"))
    assert wsd[4:16] == pytest.approx([1.0] * 12)
    assert wsd[16:] == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0])
    endless = rates(Infinite(cooldown_ratio=0.25, constant_lr_ratio=0.5))
    assert endless[4:9] == sorted(endless[4:9], reverse=True)
    assert endless[9:] == pytest.approx([0.5] * 12)
    annealed = rates(Infinite(anneal_ratio=0.2, min_lr_ratio=0.01))
    assert annealed[9:17] == pytest.approx([0.5] * 8)
    assert annealed[-1] == pytest.approx(0.01)
    # A refresh goes on at the constant rate.
    refresh = Infinite(cooldown_ratio=0.0, constant_lr_ratio=0.5)
    assert rates(refresh, warmup=0) == pytest.approx([0.5] * 21)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"noise": "neftune"}, "packing must be false with noise: neftune, got true"),
        (
            {"loss": {"name": "mixup", "perplexities": ["c"]}, "packing": False},
            "loss must not be mixup with packing, an odd batch size or an order",
        ),
        (
            {"early_stopping": {}, "num_train_epochs": 2, "max_steps": None, "checkpoints": [1]},
            "checkpoints must be left out with early_stopping, got [1]",
        ),
        (
            {"response_only": True, "loss_on": ["instruction", "content"]},
            "response_only must be false with reverse, an indicator or loss on the instruction, "
            "got true",
        ),
        (
            {"lr_scheduler_type": {"name": "infinite", "cooldown_ratio": 0.5, "anneal_ratio": 0.6}},
            "lr_scheduler_type.anneal_ratio must be at most 1 - cooldown_ratio, 0.5, got 0.6",
        ),
    ],
    ids=str,
)
def test_options_that_do_not_go_together_are_refused(
    options: dict[str, Any], problem: str, tinylm: LanguageModel
) -> None:
    assert problems("train.sft", model=tinylm, **({"max_steps": 1} | options)) == [problem]


@pytest.mark.parametrize("wrong", [None, -1.0, math.nan])
def test_a_row_without_a_valid_weight_is_named(
    wrong: float | None, ctx: Context, tmp_path: Path, tinylm: LanguageModel
) -> None:
    first = pl.col("id") == "0" * 32
    weight = pl.when(first).then(pl.lit(wrong, pl.Float64)).otherwise(pl.col("weight"))
    shards = write_shards(tmp_path / "s", rows().with_columns(weight=weight))
    with pytest.raises(UserError, match="weight must be a number from 0 on"):
        sft(ctx, shards, model=tinylm, max_steps=1, weight_column="weight")
    with pytest.raises(UserError, match="no column 'absent'") as raised:
        sft(ctx, shards, model=tinylm, max_steps=1, weight_column="absent")
    assert "columns: [absent]" in str(raised.value.hint)


def test_the_default_loss_is_the_librarys(tinylm: LanguageModel) -> None:
    from stages._training.objective import _is_ours

    assert not _is_ours(NLL(), {})
    assert not _is_ours(DFT(), {})
    assert _is_ours(NLL(), {"row_weights": None})
    assert _is_ours(KL(), {})
