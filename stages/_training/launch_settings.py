"""FSDP's and DeepSpeed's settings from a file that `accelerate config` wrote.

They say how a model lies in the memory of several devices, and nothing of what is learned: what
the file says of precision, of an optimizer or of a schedule is not its to say and is refused or
left to the stage. accelerate itself reads the file, as its launcher does.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

from pipeline.errors import UserError

_PREFIXES: Final = ("ACCELERATE_", "FSDP_", "PARALLELISM_CONFIG_")
_TYPES: Final = ("FSDP", "DEEPSPEED", "MULTI_GPU", "MULTI_CPU", "NO")
_OF_THE_STAGE: Final = ("optimizer", "scheduler")


def apply(file: str, on_gpu: bool) -> None:
    """Set the environment of this process as accelerate's launcher would.

    Args:
        file: The file.
        on_gpu: Whether the processes train on GPUs.

    Raises:
        UserError: It cannot be read, names another kind of training, or what it names is not here.
    """
    settings = environment(file)
    spread = [name for name in ("FSDP", "DEEPSPEED") if f"ACCELERATE_USE_{name}" in settings]
    if spread and not on_gpu:
        raise UserError(
            f"distributed_type must be MULTI_CPU without GPUs, got {spread[0]}",
            where=file,
            why="accelerate leaves it out on a CPU, and says nothing",
            hint="leave `accelerate` out",
        )
    os.environ.update(settings)


def environment(file: str) -> dict[str, str]:
    """What accelerate's launcher would set by a file, but for the precision.

    Args:
        file: The file.

    Raises:
        UserError: It cannot be read, names another kind of training, or DeepSpeed is not here.
    """
    from accelerate.commands import launch
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    kind = _checked(file)
    parser = launch.launch_command_parser()
    known = dict(os.environ)
    try:
        arguments = parser.parse_args(["--config_file", file, "--num_processes", "2", "-"])
        arguments.num_machines = 1
        arguments, _, _ = launch._validate_launch_command(arguments)
        arguments.main_process_port, arguments.num_machines = 0, 1
        if kind == "DEEPSPEED":
            _, settings = prepare_deepspeed_cmd_env(arguments)
        else:
            settings = prepare_multi_gpu_env(arguments)
    except (ValueError, TypeError, AttributeError, SystemExit) as error:
        raise UserError(
            f"accelerate cannot read the settings: {error}",
            where=file,
            hint="write them by: accelerate config",
        ) from None
    finally:
        os.environ.clear()
        os.environ.update(known)
    return {
        name: value
        for name, value in settings.items()
        if name.startswith(_PREFIXES) and name != "ACCELERATE_MIXED_PRECISION"
    }


def _checked(file: str) -> str:
    """The kind of training that a file names.

    Raises:
        UserError: It is no such file.
    """
    import yaml

    try:
        settings = yaml.safe_load(Path(file).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"the settings must be YAML: {error}", where=file) from None
    if not isinstance(settings, dict):
        raise UserError("the settings must be a mapping", where=file)
    kind = str(settings.get("distributed_type", "NO")).upper()
    if kind not in _TYPES:
        names = ", ".join(_TYPES)
        raise UserError(f"distributed_type must be one of {names}, got {kind}", where=file)
    if kind == "DEEPSPEED":
        _check_deepspeed(settings.get("deepspeed_config") or {}, file)
    return kind


def _check_deepspeed(settings: dict[str, Any], file: str) -> None:
    """Refuse settings of DeepSpeed that are the stage's to say, or that nobody here can follow."""
    from importlib.util import find_spec

    if find_spec("deepspeed") is None:
        raise UserError("DeepSpeed is not installed", where=file, hint="pip install deepspeed")
    own = settings.get("deepspeed_config_file")
    if own is not None:
        path = Path(file).parent / own
        try:
            settings = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"deepspeed_config_file: {error}", where=file) from None
    if named := [name for name in _OF_THE_STAGE if name in settings]:
        raise UserError(
            f"the settings must leave {named[0]} out",
            where=file,
            why="it changes what is learned, and an option of the stage says it",
        )
