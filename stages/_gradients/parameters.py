"""The parameters that per-row gradients are taken of: a fresh adapter's, or chosen ones.

The model that an engine holds is shared by all stages. Modules are copied here, tensors are not,
so that an adapter can be put into the copy and the model stays as it is.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from pipeline.errors import OptionError
from pipeline.types import Count, NonEmpty, option_group


def _valid_pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"must be a regular expression, got {pattern!r} ({error})") from None
    return pattern


@option_group
class Adapter:
    """A fresh LoRA adapter at the model's weights, its B at 0 (Hu et al. 2021, arXiv:2106.09685).

    The gradient of B is then that of the layer's weight times A, and that of A is 0. A is drawn
    from the seed with a variance of 1 / lora_r: so products of these gradients are in
    expectation the products of the gradients of the layers' weights.

    Args:
        lora_r: The rank.
        target_modules: The ends of the names of the layers.
        seed: Of A.
    """

    name: Literal["lora"] = "lora"
    lora_r: Count = 8
    target_modules: Annotated[tuple[str, ...], NonEmpty] = ("q_proj", "k_proj", "v_proj", "o_proj")
    seed: int = 0


@option_group
class Chosen:
    """The model's own parameters whose names match.

    Args:
        pattern: A regular expression, searched for in the names, such as "lm_head|norm".
    """

    name: Literal["weights"] = "weights"
    pattern: Annotated[str, AfterValidator(_valid_pattern)]


Parameters = Annotated[Adapter | Chosen, Field(discriminator="name")]


@dataclass(frozen=True)
class Differentiable:
    """A model, and the parameters that its gradients are taken of.

    Attributes:
        module: The model; nothing in it is changed.
        parameters: The parameters by name, in the order of the gradients' values.
        fixed: All others, which no gradient is computed of.
    """

    module: Any
    parameters: dict[str, Any]
    fixed: dict[str, Any]

    @property
    def size(self) -> int:
        """Values of a gradient."""
        return sum(p.numel() for p in self.parameters.values())


def differentiable(weights: Any, parameters: Parameters) -> Differentiable:
    """A model with the parameters chosen.

    Args:
        weights: A causal language model of transformers.
        parameters: Which.

    Raises:
        OptionError: The model has none of the kind.
    """
    module = _same_tensors(weights)
    module.set_attn_implementation("eager")  # the fused kernels of a CPU have no rule for vmap
    if isinstance(parameters, Adapter):
        return _with_adapter(module, parameters)
    pattern = re.compile(parameters.pattern)
    result = _chosen(module, lambda name: pattern.search(name) is not None)
    if not result.parameters:
        names = [name for name, _ in module.named_parameters()]
        raise OptionError(
            "parameters.pattern",
            f"must match the name of a parameter, got {parameters.pattern!r}",
            hint=f"names are such as {names[0]} and {names[-1]}",
        )
    return result


def _chosen(module: Any, chosen: Callable[[str], bool]) -> Differentiable:
    named = {name: p.detach() for name, p in module.named_parameters()}
    parameters = {name: p for name, p in named.items() if chosen(name)}
    fixed = {name: p for name, p in named.items() if name not in parameters}
    return Differentiable(module, parameters, fixed)


def _same_tensors(module: Any) -> Any:
    """A copy of a model whose parameters and buffers are those of the original."""
    tensors = {id(t): t for t in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, tensors)


def _with_adapter(module: Any, options: Adapter) -> Differentiable:
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=options.lora_r,
        lora_alpha=options.lora_r,  # the adapter's output is not scaled
        lora_dropout=0.0,
        target_modules=list(options.target_modules),
        task_type="CAUSAL_LM",
    )
    frozen = {name: p.requires_grad for name, p in module.named_parameters()}
    try:
        adapted: Any = inject_adapter_in_model(config, module)
    except ValueError as error:
        raise OptionError(
            "parameters.target_modules",
            f"must be ends of names of layers, got {', '.join(options.target_modules)}",
            why=str(error).splitlines()[0],
        ) from None
    for name, parameter in adapted.named_parameters():
        if ".lora_A." in name:
            seed = blake2b(f"{options.seed} {name}".encode(), digest_size=8).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(seed, "big") >> 1)
            drawn = torch.randn(parameter.shape, generator=generator) / options.lora_r**0.5
            parameter.data.copy_(drawn)
        elif ".lora_B." not in name:  # the original's tensor, which the injection has frozen
            parameter.requires_grad_(frozen[name.replace(".base_layer.", ".")])
    return _chosen(adapted.eval(), lambda name: ".lora_B." in name)
