"""Merging: the weights of several trainings of one base, as one model.

WiSE-FT: Robust fine-tuning of zero-shot models (Wortsman et al. 2021, arXiv:2109.01903;
mlfoundations/wise-ft).

As in the paper: (1 - alpha) of the weights before the training and alpha of those after it, by
`linear` with these two weights. Ours: nothing but the names.

Model Stock: Model Stock: All we need is just a few fine-tuned models (Jang et al. 2024,
arXiv:2403.19522).

As in the paper: per tensor base + t (mean - base), t = N c / (1 + (N - 1) c), c the mean cosine
between the differences from the base. Ours: t is held between 0 and 1, which it leaves where
differences point away from each other.

Disperse-then-merge: Disperse-Then-Merge: Pushing the Limits of Instruction Tuning via Alignment
Tax Reduction (Fu et al. 2024, arXiv:2405.13432).

As in the paper: models that were trained on disjoint parts of the rows are averaged. Ours: of
adapters the exact sum of their differences, by `cat`, where averaging the two factors of each
by themselves gives another model.

RE-Adapt: RE-Adapt: Reverse Engineered Adaptation of Large Language Models (Fleshman and Van Durme
2024, arXiv:2405.15007).

As in the paper: base + alpha (instruct - base) + beta (domain - base), where the domain's adapter
was trained on the base; LoRE-Adapt keeps of each matrix of the instruct difference the leading
singular directions that explain half of its variance. Ours: beta's default, 0.5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from pipeline.models.base import LanguageModel
from pipeline.models.local.threads import fix_threads
from pipeline.stage import stage
from pipeline.types import PositiveFraction, option_group
from stages._training.dataset import load_tokenizer
from stages._training.trainer import quiet, write_json

Tensor = Any
"""A torch tensor."""


@option_group
class Linear:
    """A weighted mean (WiSE-FT with two models, disperse-then-merge with equal weights).

    Args:
        weights: One for each model, with the sum 1; none means equal ones.
    """

    name: Literal["linear"] = "linear"
    weights: tuple[float, ...] = ()


@option_group
class Stock:
    """Between the base and the mean, as near to the mean as differences agree (Model Stock)."""

    name: Literal["stock"] = "stock"


@option_group
class Difference:
    """The base and weighted differences from it (RE-Adapt; task arithmetic).

    Args:
        weights: One for each model: of RE-Adapt those of the instruct and of the domain model.
        explained_variance: Of the first model's differences, the fraction of the variance of each
            matrix that its leading singular directions keep (LoRE-Adapt: 0.5); null for all.
    """

    name: Literal["difference"] = "difference"
    weights: tuple[float, ...] = (1.0, 0.5)
    explained_variance: PositiveFraction | None = None


@option_group
class Cat:
    """The exact weighted sum of adapters, whose ranks add up (peft's `cat`).

    Args:
        weights: One for each model; none means equal ones with the sum 1.
    """

    name: Literal["cat"] = "cat"
    weights: tuple[float, ...] = ()


Merging = Annotated[Linear | Stock | Difference | Cat, Field(discriminator="name")]


def _check(options: SimpleNamespace) -> None:
    method, number = options.method, len(options.models)
    if (options.base is None) != isinstance(method, Linear):
        has = "given" if options.base is None else "left out"
        raise OptionError("base", f"must be {has} with method: {method.name}")
    least = 2 if isinstance(method, Stock) else 1
    if number < least:
        raise OptionError("models", f"must be at least {least}, got {number}")
    weights = getattr(method, "weights", ())
    if (weights or isinstance(method, Difference)) and len(weights) != number:
        raise OptionError(
            "method", f"must have {number} weights, one for each model, got {len(weights)}"
        )
    if isinstance(method, Linear) and weights and not abs(sum(weights) - 1) <= 1e-9:
        raise OptionError(
            "method",
            f"must have weights with the sum 1, got {sum(weights):g}",
            why="a mean of models that does not weigh 1 is none",
            hint="method: difference adds weighted differences from a base",
        )


@stage(version=1, scope="set", check=_check)
def merge(
    ctx: Context,
    *,
    models: tuple[LanguageModel, ...],
    base: LanguageModel | None = None,
    method: Merging = Linear(),
) -> None:
    """Merge models of one shape, tensor by tensor in float32.

    Writes `model/` in the data type of the first model's weights, with its tokenizer; with the
    method `cat` `adapter/` too; and `metrics.json`: `models`, `parameters` and the `distance` of
    the merged weights from the first model's, or from the base's where there is one (the norm of
    the difference over that of the weights). All models are in memory at once.

    Args:
        models: The models to merge.
        base: What they were trained from; for all methods but `linear`.
        method: How they are merged.

    Raises:
        UserError: The models differ in their tensors, or have no adapter beside them.

    Example:
        ```yaml
        models:
          base: {model: Qwen/Qwen2.5-1.5B, dtype: bfloat16}
          tuned: {from: trained, dtype: bfloat16}
        stages:
          robust: {uses: train.merge, with: {models: [base, tuned],
                   method: {name: linear, weights: [0.5, 0.5]}}}
        ```
    """
    fix_threads()
    with quiet():
        if isinstance(method, Cat):
            if base is None:
                raise ValueError("cat needs a base")
            merged, first = _cat(models, base, method, ctx.files), _loaded(base).state_dict()
        else:
            merged, first = _merged(ctx, models, base, method)
        metrics = _metrics(merged.state_dict(), first) | {"models": len(models)}
        merged.save_pretrained(ctx.files / "model")
        load_tokenizer(models[0])[0].save_pretrained(ctx.files / "model")
    write_json(ctx.files / "metrics.json", metrics)


def _merged(
    ctx: Context, models: Sequence[LanguageModel], base: LanguageModel | None, method: Merging
) -> tuple[Any, dict[str, Tensor]]:
    """The merged model, and the tensors that its distance is measured from."""
    import torch

    result = _loaded(models[0])
    states = [_loaded(model).state_dict() for model in models]
    origin = None if base is None else _loaded(base).state_dict()
    _refuse_other_shapes(states if origin is None else [*states, origin])
    _refuse_other_architectures([*models, *([] if base is None else [base])])
    target = result.state_dict()
    with torch.no_grad():
        for done, (name, value) in enumerate(target.items(), 1):
            tensors = [state[name] for state in states]
            value.copy_(merged_tensor(method, tensors, None if origin is None else origin[name]))
            ctx.progress(done, len(target))
    return result, states[0] if origin is None else origin


def merged_tensor(method: Merging, tensors: Sequence[Tensor], base: Tensor | None) -> Tensor:
    """One tensor of the merged model.

    Args:
        method: How it is merged.
        tensors: That of each model.
        base: That of the base; None with `linear`.

    Example:
        >>> import torch
        >>> one, other = torch.tensor([0.0, 2.0]), torch.tensor([4.0, 2.0])
        >>> merged_tensor(Linear(weights=(0.25, 0.75)), [one, other], None).tolist()
        [3.0, 2.0]
    """
    match method:
        case Linear(weights=weights):
            return _sum(None, tensors, weights or (1 / len(tensors),) * len(tensors))
        case Difference(weights=weights, explained_variance=kept) if base is not None:
            if kept is not None and base.dim() == 2:
                low = low_rank(tensors[0].float() - base.float(), kept)
                tensors = [base.float() + low, *tensors[1:]]
            return _sum(base, tensors, weights)
    if base is None or not isinstance(method, Stock):
        raise ValueError(f"{method.name} merges no tensors without a base")
    differences = [tensor.float() - base.float() for tensor in tensors]
    mean = sum(differences[1:], differences[0]) / len(differences)
    return base.float() + stock_ratio(differences) * mean


def _sum(base: Tensor | None, tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted sum, or that of the differences on the base; the ends are exact copies."""
    used = [(tensor, weight) for tensor, weight in zip(tensors, weights, strict=True) if weight]
    if not used and base is not None:
        return base
    if len(used) == 1 and used[0][1] == 1:
        return used[0][0]
    if base is None:
        first, weight = used[0]
        return sum((t.float() * w for t, w in used[1:]), first.float() * weight)
    return sum(((t.float() - base.float()) * w for t, w in used), base.float())


def stock_ratio(differences: Sequence[Tensor]) -> float:
    """Model Stock's t, held between 0 and 1.

    Args:
        differences: Those from the base, two at least.

    Example:
        >>> import torch
        >>> stock_ratio([torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.75**0.5])]).__round__(4)
        0.6667
    """
    import torch

    flat = torch.stack([difference.flatten() for difference in differences])
    unit = torch.nn.functional.normalize(flat, dim=1)
    cosines = unit @ unit.T
    number = len(differences)
    mean = float((cosines.sum() - cosines.diagonal().sum()) / (number * (number - 1)))
    denominator = 1 + (number - 1) * mean
    if denominator <= 0:
        return 0.0
    return min(max(number * mean / denominator, 0.0), 1.0)


def low_rank(matrix: Tensor, explained_variance: float) -> Tensor:
    """The leading singular directions of a matrix that explain a fraction of its variance.

    Args:
        matrix: The matrix.
        explained_variance: The fraction of the sum of the squared singular values.
    """
    import torch

    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    if not values.any():
        return matrix
    explained = (values**2).cumsum(0) / (values**2).sum()
    rank = int((explained < explained_variance - 1e-7).sum()) + 1
    return (left[:, :rank] * values[:rank]) @ right[:rank]


def _cat(models: Sequence[LanguageModel], base: LanguageModel, method: Cat, files: Path) -> Any:
    """The base with the exact sum of the adapters that lie beside the models' weights."""
    from peft import PeftModel

    folders = [Path(model.model).parent / "adapter" for model in models]
    for model, folder in zip(models, folders, strict=True):
        if not folder.is_dir():
            raise UserError(
                f"{model.short_name} has no adapter beside its weights",
                where=str(folder),
                hint="train it by train.sft with method: lora, or merge with method: linear",
            )
    names = [f"part-{number}" for number in range(len(models))]
    adapted: Any = PeftModel.from_pretrained(_loaded(base), folders[0], adapter_name=names[0])
    for name, folder in zip(names[1:], folders[1:], strict=True):
        adapted.load_adapter(folder, adapter_name=name)
    weights = list(method.weights or (1 / len(models),) * len(models))
    adapted.add_weighted_adapter(names, weights, "default", combination_type="cat")
    adapted.set_adapter("default")
    for name in names:
        adapted.delete_adapter(name)
    adapted.save_pretrained(files / "adapter")
    return adapted.merge_and_unload()


def _loaded(model: LanguageModel) -> Any:
    """A model as its files have it."""
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(
        model.model, revision=model.revision, dtype="auto"
    )
    return loaded


def _refuse_other_shapes(states: Sequence[Mapping[str, Tensor]]) -> None:
    """Raise a UserError for models whose tensors do not correspond."""
    shapes = [{name: tuple(value.shape) for name, value in state.items()} for state in states]
    for number, other in enumerate(shapes[1:], 2):
        different = sorted(dict(shapes[0].items() ^ other.items()))
        if different:
            raise UserError(
                f"model {number} differs from the first in {len(different)} tensors, "
                f"first of all {different[0]}",
                why="only models of one shape can be merged",
                hint="name models that were trained from one base",
            )


_ARCHITECTURE: Final = (
    "model_type", "hidden_act", "num_attention_heads", "num_key_value_heads", "head_dim",
)  # fmt: skip
"""What says how tensors of one shape are read; lengths and special tokens may differ."""


def _refuse_other_architectures(models: Sequence[LanguageModel]) -> None:
    """Raise a UserError for models that read equal tensors in different ways."""
    from transformers import AutoConfig

    first: dict[str, Any] = {}
    for number, model in enumerate(models, 1):
        every = AutoConfig.from_pretrained(model.model, revision=model.revision).to_dict()
        config = {name: every.get(name) for name in _ARCHITECTURE}
        first = first or config
        names = [name for name in _ARCHITECTURE if first[name] != config[name]]
        if names:
            raise UserError(
                f"model {number} differs from the first in {', '.join(names)}: "
                f"{config[names[0]]!r} against {first[names[0]]!r}",
                why="only models of one architecture can be merged",
                hint="name models that were trained from one base",
            )


def _metrics(merged: Mapping[str, Tensor], first: Mapping[str, Tensor]) -> dict[str, Any]:
    """How far the merged weights are from others, over all of them."""
    moved = sum(float((merged[n].float() - first[n].float()).square().sum()) for n in merged)
    norm = sum(float(first[name].float().square().sum()) for name in merged)
    parameters = sum(value.numel() for value in merged.values())
    return {"parameters": parameters, "distance": (moved / norm) ** 0.5 if norm else 0.0}
