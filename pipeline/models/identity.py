"""The identity of a model, which is the same whatever runs it and wherever it is stored.

The weights are identified by the first of these that there is: the `id` that the user
gave, the digest of the files of a local folder, the name under which a server knows the
model, or a hub name with the commit that its revision resolves to. Number format, a
replaced chat template, an adapter and those engine options that may change an answer
belong to the identity, and so do fields that are sent to a server on top of what a stage asks.
Engine, device and a server's address do not.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from pipeline.errors import UserError
from pipeline.models.api import DEFAULT_REASONING
from pipeline.models.base import PLAIN, Embedder, LanguageModel, local_folder
from pipeline.store.file_hashes import FileDigests
from pipeline.store.hashing import digest

MODEL_SUFFIXES: Final = frozenset(
    {".bin", ".jinja", ".json", ".model", ".pt", ".py", ".safetensors", ".tiktoken", ".txt"}
)
TRAINER_FILES: Final = frozenset(
    {"optimizer.bin", "optimizer.pt", "rng_state.pt", "scheduler.pt"}
    | {"trainer_state.json", "training_args.bin"}
)
"""Files that trainers write beside the weights; no answer depends on them."""
EXECUTION_OPTIONS: Final = frozenset(
    {"tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"}
    | {"gpu_memory_utilization", "kv_cache_memory_bytes", "cpu_offload_gb", "swap_space"}
    | {"max_model_len", "max_num_seqs", "max_num_batched_tokens", "enable_chunked_prefill"}
    | {"enable_prefix_caching", "enforce_eager", "block_size", "disable_log_stats"}
    | {"distributed_executor_backend", "load_format", "download_dir", "max_lora_rank"}
)
"""Engine options that say how to run a model; any other one may change its answers."""
COMMIT: Final = re.compile(r"[0-9a-f]{40}")


def identity(model: LanguageModel | Embedder, files: FileDigests) -> dict[str, Any]:
    """The identity of a model as JSON values.

    Args:
        model: The model.
        files: Digests of files, cached.

    Raises:
        UserError: The folder, the name on the hub or the chat template does not exist.
    """
    result: dict[str, Any] = {"weights": _weights(model, files)}
    if isinstance(model, Embedder):
        return result
    if "served" not in result["weights"]:
        result["dtype"] = model.dtype
    if model.chat_template is not None:
        named = model.chat_template == PLAIN
        template = PLAIN if named else _template_digest(model.chat_template, files)
        result["chat_template"] = template
    if model.lora is not None:
        result["lora"] = _folder_or_name(model.lora, files)
    if model.tokenizer is not None:
        result["tokenizer"] = _folder_or_name(model.tokenizer, files)
    options = {k: v for k, v in model.engine_options.items() if k not in EXECUTION_OPTIONS}
    api = model.api.identity()
    return result | ({"options": options} if options else {}) | ({"api": api} if api else {})


def reading(model: LanguageModel | Embedder) -> dict[str, Any]:
    """What says how answers are read: of a stage's fingerprint, and not of a request's key.

    Args:
        model: The model. Nothing where it says nothing of its own.
    """
    if isinstance(model, Embedder):
        return {}
    values = {"reasoning": asdict(model.reasoning), "resample": model.resample}
    defaults = {"reasoning": asdict(DEFAULT_REASONING), "resample": LanguageModel.resample}
    return {name: value for name, value in values.items() if value != defaults[name]}


def _folder_or_name(name: str, files: FileDigests) -> str:
    folder = local_folder(name)
    return name if folder is None else folder_digest(folder, files)


def resolved_revision(model: LanguageModel | Embedder) -> str:
    """The commit of a model on the hub: the one in the local cache, else the hub's answer.

    The cache comes first, so that a revision that moves on the hub changes nothing here
    until the model is downloaded again.

    Raises:
        UserError: The hub has no such model, or cannot be reached.
    """
    from httpx2 import HTTPError
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if model.revision and COMMIT.fullmatch(model.revision):
        return model.revision
    try:
        folder = snapshot_download(model.model, revision=model.revision, local_files_only=True)
        return Path(folder).name
    except LocalEntryNotFoundError:
        pass
    except ValueError as error:
        raise _missing(model, str(error)) from error
    try:
        commit = HfApi().model_info(model.model, revision=model.revision).sha
    except (HfHubHTTPError, HTTPError, OSError, RuntimeError) as error:
        raise _missing(model, str(error).strip().splitlines()[0]) from error
    if commit is None:
        raise _missing(model, "the hub has no commit of it")
    return commit


def _weights(model: LanguageModel | Embedder, files: FileDigests) -> dict[str, str]:
    if model.id is not None:
        return {"id": model.id}
    folder = local_folder(model.model)
    if folder is not None:
        return {"digest": folder_digest(folder, files)}
    if isinstance(model, LanguageModel) and model.base_url is not None:
        return {"served": model.model}
    return {"name": model.model, "revision": resolved_revision(model)}


def folder_digest(folder: Path, files: FileDigests) -> str:
    """The digest of a model's folder: 32 hex digits over the names and contents of its files.

    It covers weights, configurations, tokenizer and chat template; not the trainer's own
    state, intermediate checkpoints and texts for people.

    Raises:
        UserError: The folder has no such file.
    """
    paths = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and _is_model_file(path.relative_to(folder))
    ]
    if not paths:
        raise UserError(
            "model must be a folder with weights, got one without any file of a model",
            where=str(folder),
        )
    names = [p.relative_to(folder).as_posix() for p in paths]
    return digest(dict(zip(names, files.get_many(paths), strict=True)))


def _is_model_file(name: Path) -> bool:
    excluded = any(part.startswith((".", "checkpoint-")) for part in name.parts)
    return not excluded and name.suffix in MODEL_SUFFIXES and name.name not in TRAINER_FILES


def _template_digest(path: str, files: FileDigests) -> str:
    try:
        return files.get(path)
    except OSError as error:
        raise UserError("the chat template cannot be read", where=path, why=str(error)) from error


def _missing(model: LanguageModel | Embedder, why: str) -> UserError:
    revision = f" at revision {model.revision}" if model.revision else ""
    return UserError(
        f"model must be a folder or a name on the hub, got {model.model!r}{revision}",
        why=f"there is no such folder, it is not in the local cache of the hub, and: {why}",
        hint="give the folder of a model, or the name of one on the hub",
    )
