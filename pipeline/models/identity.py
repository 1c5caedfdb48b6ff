"""What a model is, whoever runs it and wherever it lies.

In this order: the `id` that its user gave it; the digest of the files of a local
folder; the name under which a server knows it; a hub name with the commit that its
revision resolves to. Number format, a replaced chat template, an adapter and those
engine options that may change an answer belong to it. Engine, device and the place
of a server do not.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from pipeline.errors import UserError
from pipeline.models.base import PLAIN, Embedder, LanguageModel, local_folder
from pipeline.store.file_hashes import FileDigests
from pipeline.store.hashing import digest

SUFFIXES: Final = frozenset(
    {".bin", ".jinja", ".json", ".model", ".pt", ".py", ".safetensors", ".tiktoken", ".txt"}
)
TRAINING: Final = frozenset(
    {"optimizer.bin", "optimizer.pt", "rng_state.pt", "scheduler.pt"}
    | {"trainer_state.json", "training_args.bin"}
)
"""What trainers leave beside the weights and no answer depends on."""
EXECUTION: Final = frozenset(
    {"tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"}
    | {"gpu_memory_utilization", "kv_cache_memory_bytes", "cpu_offload_gb", "swap_space"}
    | {"max_model_len", "max_num_seqs", "max_num_batched_tokens", "enable_chunked_prefill"}
    | {"enable_prefix_caching", "enforce_eager", "block_size", "disable_log_stats"}
    | {"distributed_executor_backend", "load_format", "download_dir", "max_lora_rank"}
)
"""Engine options that say how to run a model; whatever else is given may change its answers."""
COMMIT: Final = re.compile(r"[0-9a-f]{40}")


def identity(model: LanguageModel | Embedder, files: FileDigests) -> dict[str, Any]:
    """The identity of a model as plain JSON values.

    Raises UserError if the folder, the hub's answer or the chat template is missing.
    """
    what: dict[str, Any] = {"weights": _weights(model, files)}
    if isinstance(model, Embedder):
        return what
    if "served" not in what["weights"]:
        what["dtype"] = model.dtype
    if model.chat_template is not None:
        named = model.chat_template == PLAIN
        digested = PLAIN if named else _template_digest(model.chat_template, files)
        what["chat_template"] = digested
    if model.lora is not None:
        what["lora"] = _folder_or_name(model.lora, files)
    if model.tokenizer is not None:
        what["tokenizer"] = _folder_or_name(model.tokenizer, files)
    options = {k: v for k, v in model.engine_options.items() if k not in EXECUTION}
    return what | ({"options": options} if options else {})


def _folder_or_name(name: str, files: FileDigests) -> str:
    folder = local_folder(name)
    return name if folder is None else folder_digest(folder, files)


def resolved_revision(model: LanguageModel | Embedder) -> str:
    """The commit of a hub model: what the local cache holds, else what the hub says.

    The cache comes first so that a revision that moves on the hub changes nothing
    here until the model is fetched anew.
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
        raise _missing(model, "the hub names no commit for it")
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
    """32 hex digits over the names and contents of all files that an answer depends on.

    Weights, configurations, tokenizer, chat template; not the trainer's own state,
    not intermediate checkpoints, not what is written for people to read.
    """
    paths = [
        p for p in sorted(folder.rglob("*")) if p.is_file() and _matters(p.relative_to(folder))
    ]
    if not paths:
        raise UserError("the folder holds no model", where=str(folder))
    names = [p.relative_to(folder).as_posix() for p in paths]
    return digest(dict(zip(names, files.get_many(paths), strict=True)))


def _matters(name: Path) -> bool:
    aside = any(part.startswith((".", "checkpoint-")) for part in name.parts)
    return not aside and name.suffix in SUFFIXES and name.name not in TRAINING


def _template_digest(path: str, files: FileDigests) -> str:
    try:
        return files.get(path)
    except OSError as error:
        raise UserError("the chat template cannot be read", where=path, why=str(error)) from error


def _missing(model: LanguageModel | Embedder, why: str) -> UserError:
    revision = f" at revision {model.revision}" if model.revision else ""
    return UserError(
        f"there is no model {model.model!r}{revision}",
        why=f"no such folder, not in the local hub cache, and: {why}",
        hint="give a folder that holds the model, or the name of one on the hub",
    )
