"""The exported files as the hub and `datasets` see them: configs, splits and features.

`export.*` writes a `README.md` that says which files are which split, so that its folder loads
by itself. The card of a release takes these lines over, and replaces that file: what a config
holds is said in one place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

import yaml

from pipeline.store.releases import release_files
from pipeline.store.store import Store
from schemas.release import Release

README: Final = "README.md"
DEFAULT: Final = "default"
"""The name of the only config; of several, each is named after its stage."""


class Split(NamedTuple):
    """The files of one split.

    Attributes:
        name: Its name.
        pattern: Which files they are, from the root of the publication.
        rows: Their rows.
    """

    name: str
    pattern: str
    rows: int


class Config(NamedTuple):
    """What one `export.*` stage wrote.

    Attributes:
        name: The config's name on the hub.
        stage: The stage's name in the recipe.
        folder: Where its files are on this machine.
        prefix: Where they are in the publication: empty, or the stage's name and a slash.
        splits: Its splits; without rows there is none.
        bytes: Of all its data files.
        notes: What the export says to readers, in Markdown.
    """

    name: str
    stage: str
    folder: Path
    prefix: str
    splits: tuple[Split, ...]
    bytes: int
    notes: tuple[str, ...]


def configs(store: Store, release: Release) -> list[Config]:
    """The configs of a release, in the order of its stages.

    Args:
        store: Where its artifacts are.
        release: The release.

    Raises:
        UserError: The store lacks a file.
    """
    paths = release_files(store, release)
    stages = list(dict.fromkeys(file["stage"] for file in release["files"]))
    several = len(stages) > 1
    return [_config(release, paths, stage, several) for stage in stages]


def loadable(configs: Sequence[Config]) -> list[Config]:
    """The configs that `load_dataset` can read from one publication, where it takes one format.

    Parquet comes first; what is in another format lies beside it, for other programs.

    Args:
        configs: All configs.
    """
    with_rows = [config for config in configs if config.splits]
    formats = [config.splits[0].pattern.rpartition("*")[2] for config in with_rows]
    chosen = ".parquet" if ".parquet" in formats else next(iter(formats), "")
    return [c for c, suffix in zip(with_rows, formats, strict=True) if suffix == chosen]


def _config(release: Release, paths: dict[str, Path], stage: str, several: bool) -> Config:
    prefix = f"{stage}/" if several else ""
    described = json.loads(paths[f"{prefix}shards.json"].read_text("utf-8"))["splits"]
    _, front, body = paths[f"{prefix}{README}"].read_text("utf-8").split("---\n", 2)
    (config,) = yaml.safe_load(front)["configs"]
    splits = tuple(
        Split(files["split"], prefix + files["path"], described[files["split"]]["rows"])
        for files in config["data_files"]
        if files["split"] in described
    )
    data = [f for f in release["files"] if f["stage"] == stage and f["path"].startswith("data/")]
    paragraphs = [p.strip() for p in body.split("\n\n") if p.strip() and not p.startswith("|")]
    return Config(
        name=stage if several else DEFAULT,
        stage=stage,
        folder=paths[f"{prefix}{README}"].parent,
        prefix=prefix,
        splits=splits,
        bytes=sum(file["bytes"] for file in data),
        notes=tuple(p for p in paragraphs if not p.startswith("|")),
    )


def as_yaml(config: Config, is_first: bool) -> dict[str, Any]:
    """The config as the front matter names it.

    Args:
        config: The config.
        is_first: Whether it is what loads without a name.
    """
    files = [{"split": split.name, "path": split.pattern} for split in config.splits]
    return {
        "config_name": config.name,
        **({"default": True} if is_first and config.name != DEFAULT else {}),
        "data_files": files,
    }


@lru_cache(maxsize=16)
def dataset_info(config: Config) -> dict[str, Any]:
    """Features, splits and sizes as `datasets` itself finds them when it loads the files.

    Card and Croissant both need them; the files of an artifact never change.

    Args:
        config: A config with rows.
    """
    import datasets

    was_shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        with TemporaryDirectory() as cache:
            builder = datasets.load_dataset_builder(str(config.folder), cache_dir=cache)
            builder.download_and_prepare()
    finally:
        if was_shown:
            datasets.enable_progress_bars()
    info = builder.info
    splits = [
        {"name": name, "num_bytes": split.num_bytes, "num_examples": split.num_examples}
        for name, split in info.splits.items()
    ]
    return {
        "config_name": config.name,
        "features": info.features._to_yaml_list(),
        "splits": splits,
        "download_size": config.bytes,
        "dataset_size": sum(split["num_bytes"] for split in splits),
    }


def size_category(rows: int) -> str:
    """The hub's name for a number of rows.

    Args:
        rows: The number.

    >>> size_category(999), size_category(52_002), size_category(2 * 10**12)
    ('n<1K', '10K<n<100K', 'n>1T')
    """
    names = ["1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T"]
    if rows < 1000:
        return "n<1K"
    power = len(str(rows)) - 4
    return f"{names[power]}<n<{names[power + 1]}" if power < len(names) - 1 else "n>1T"


def repository(to: str | None) -> str | None:
    """The name on the hub of where a release is published; None elsewhere.

    Args:
        to: The address, such as `hf://org/name`.

    >>> repository("hf://datasets/org/name"), repository("s3://bucket/name")
    ('org/name', None)
    """
    match = re.fullmatch(r"hf://(?:datasets/)?([\w.-]+/[\w.-]+)/?", to or "")
    return match[1] if match else None
