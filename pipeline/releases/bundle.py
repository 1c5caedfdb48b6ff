"""Writing a bundle: all that another machine needs to rebuild a release, but for its data.

The same release gives the same bytes. The file is written beside its final place, flushed to
the disk and renamed: it is there whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from pipeline import ROOT
from pipeline.errors import UserError
from pipeline.execution.remote_inputs import with_copies
from pipeline.models.identity import folder_digest
from pipeline.models.journal.export import lines
from pipeline.models.journal.journal import journal_in
from pipeline.recipe.code_hash import code_hash, own_files, prompt_digests, prompts
from pipeline.recipe.graph import Step
from pipeline.recipe.options import existing
from pipeline.recipe.recipe import Recipe, document_of
from pipeline.stage import Stage
from pipeline.store.file_hashes import BLOCK, FileDigests
from pipeline.store.files import check_kind
from pipeline.store.hashing import encode
from pipeline.store.store import Store
from schemas.bundle import FORMAT, Bundle, BundleFile, BundleInput, BundleModel, BundleStage
from schemas.release import Release

BUNDLE: Final = "bundle.json"
RELEASE: Final = "release.json"
RECIPE: Final = "recipe.yaml"
JOURNAL: Final = "journal.jsonl"
OWN: Final = "own/"
PROMPTS: Final = "prompts/"
SUFFIX: Final = ".zip"

_MODEL_PATHS: Final = ("model", "lora", "tokenizer", "chat_template")
_TIME: Final = (1980, 1, 1, 0, 0, 0)
"""The time of every member: the first that a zip file can say."""


@dataclass(frozen=True)
class Written:
    """What a bundle has.

    Attributes:
        path: Its file.
        bytes: Its size.
        own: Files of stages that the project does not ship.
        inputs: Files that must be there to rebuild.
        answers: Answers in its journal; None without one.
    """

    path: Path
    bytes: int
    own: int
    inputs: int
    answers: int | None


def write_bundle(
    recipe: Recipe, store: Store, release: Release, path: Path, *, with_journal: bool = False
) -> Written:
    """Write the bundle of a release.

    Args:
        recipe: The recipe that made it, as it is now.
        store: Where its artifacts and the journal are.
        release: The release.
        path: The file, which must end in `.zip`; another bundle in its place is replaced.
        with_journal: Whether the answers of its models go with it.

    Raises:
        UserError: The file cannot be written, or something else is in its place.
    """
    check_writable(path)
    files, stages = store.files(), [step.stage for step in recipe.steps.values()]
    members = dict(_members(release, stages))
    inputs = [
        entry for step in recipe.steps.values() for entry in _inputs(recipe, step, store, files)
    ]
    partial = path.with_name(f".{path.name}.part")
    try:
        with partial.open("wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
                listed = [_add(archive, name, [members[name]]) for name in sorted(members)]
                answers = _add_journal(archive, store, release, listed) if with_journal else None
                bundle = Bundle(
                    format=FORMAT,
                    release=f"{release['name']}@{release['version']}",
                    program=program_version(),
                    python=platform.python_version(),
                    stages=[_stage(stage) for stage in {s.name: s for s in stages}.values()],
                    inputs=inputs,
                    models=list(_models(recipe, files)),
                    members=listed,
                )
                _add(archive, BUNDLE, [json.dumps(bundle, indent=1, ensure_ascii=False).encode()])
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise UserError("the bundle cannot be written", where=str(path), why=str(error)) from None
    finally:
        partial.unlink(missing_ok=True)
    own = sum(name.startswith(OWN) for name in members)
    return Written(path, path.stat().st_size, own, sum(len(i["files"]) for i in inputs), answers)


def check_writable(path: Path) -> None:
    """Refuse a path at which no bundle can be written, before there is anything to write.

    Raises:
        UserError: It does not end in `.zip`, its folder is missing, or something else is there.
    """
    if path.suffix != SUFFIX:
        raise UserError(f"a bundle must end in {SUFFIX}, got {str(path)!r}")
    check_kind(path, "the bundle", folder=False, hint="name another file, such as bundle.zip")
    if not path.parent.is_dir():
        raise UserError(
            "the bundle cannot be written", where=str(path), why="its folder is missing"
        )
    if path.exists() and path.stat().st_size and not is_bundle(path):
        what = "the file exists and is no bundle, so it is not replaced"
        raise UserError(what, where=str(path), hint="name another file, such as bundle.zip")


def is_bundle(path: Path) -> bool:
    """Whether a file is a zip file with a `bundle.json`."""
    try:
        with zipfile.ZipFile(path) as archive:
            return BUNDLE in archive.namelist()
    except (OSError, zipfile.BadZipFile, RuntimeError, ValueError):
        return False


def _members(release: Release, stages: Iterable[Stage]) -> Iterator[tuple[str, bytes]]:
    """The small files by name."""
    yield RELEASE, json.dumps(release, indent=1, ensure_ascii=False).encode()
    yield RECIPE, release["recipe"]["text"].encode()
    for stage in stages:
        texts = {name: path.read_bytes() for name, path in prompts(stage).items()}
        for name, text in (texts | {one.name: one.content for one in stage.prompts}).items():
            yield PROMPTS + name, text
        if not is_shipped(stage):
            for name, path in own_files(stage).items():
                yield OWN + name, path.read_bytes()


def is_shipped(stage: Stage) -> bool:
    """Whether the project itself has the stage."""
    return stage.function.__module__.split(".")[0] == "stages"


def _add(archive: zipfile.ZipFile, name: str, parts: Iterable[bytes]) -> BundleFile:
    """Add a member, part by part, without time and with the same rights on every machine."""
    member = zipfile.ZipInfo(name, _TIME)
    member.compress_type, member.create_system = zipfile.ZIP_DEFLATED, 3
    member.external_attr = 0o644 << 16
    digest, size = hashlib.sha256(), 0
    with archive.open(member, "w", force_zip64=True) as file:
        for part in parts:
            file.write(part)
            digest.update(part)
            size += len(part)
    return BundleFile(name=name, bytes=size, sha256=digest.hexdigest())


def _add_journal(
    archive: zipfile.ZipFile, store: Store, release: Release, listed: list[BundleFile]
) -> int:
    """Add the answers of the release's models; how many there are."""
    journal = journal_in(store.root)
    named = [model["identity"] for model in release["models"]]
    each = [
        i for identity in named for i in (identity if isinstance(identity, list) else [identity])
    ]
    models = {encode(identity).decode() for identity in each}
    count = 0

    def parts() -> Iterator[bytes]:
        nonlocal count
        for line in lines(journal, models) if journal else ():
            count += 1
            yield line.encode()

    listed.append(_add(archive, JOURNAL, parts()))
    if journal:
        journal.close()
    return count


def _stage(stage: Stage) -> BundleStage:
    return BundleStage(
        uses=stage.name,
        version=stage.version,
        code=code_hash(stage),
        prompts=prompt_digests(stage),
    )


def _inputs(recipe: Recipe, step: Step, store: Store, files: FileDigests) -> Iterator[BundleInput]:
    """The files that a step reads, with their paths as the recipe has them."""
    written = document(recipe)["stages"].get(step.name, {}).get("with") or {}
    options = with_copies(step, step.options, store, files)
    for option in step.stage.options:
        paths = getattr(options, option.name)
        if option.names_files and paths:
            patterns = written.get(option.name)
            shown = patterns if isinstance(patterns, str) else ", ".join(patterns or ())
            yield _input(step.name, option.name, shown, [Path(p) for p in paths], files)
    if own := step.stage.input_files(step.options):
        folder = Path(os.path.commonpath([path.parent for path in own]))
        inside = folder.is_relative_to(ROOT)
        shown = folder.relative_to(ROOT).as_posix() if inside else folder.name
        yield _input(step.name, None, shown, own, files)


def _input(
    stage: str, option: str | None, shown: str, paths: list[Path], files: FileDigests
) -> BundleInput:
    digests = zip(paths, files.get_many(paths), strict=True)
    return BundleInput(
        stage=stage,
        option=option,
        path=shown,
        files=[BundleFile(name=p.name, bytes=p.stat().st_size, sha256=d) for p, d in digests],
    )


def _models(recipe: Recipe, files: FileDigests) -> Iterator[BundleModel]:
    for name, raw in (document(recipe).get("models") or {}).items():
        yield from model_files(name, raw, recipe.folder, files)


def model_files(
    name: str, raw: dict[str, Any], folder: Path, files: FileDigests
) -> Iterator[BundleModel]:
    """The local folders and files of a model.

    Args:
        name: The model's name in the recipe.
        raw: What the recipe says of it.
        folder: Where relative paths are looked for first.
        files: Digests of files, cached.
    """
    for key in _MODEL_PATHS:
        value = raw.get(key)
        if not isinstance(value, str) or (key == "model" and raw.get("id")):
            continue
        path = Path(existing(value, folder))
        if path.is_dir():
            size = sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
            digest = folder_digest(path, files)
            yield BundleModel(model=name, key=key, path=value, bytes=size, digest=digest)
        elif path.is_file():
            size, digest = path.stat().st_size, files.get(path)
            yield BundleModel(model=name, key=key, path=value, bytes=size, digest=digest)


def document(recipe: Recipe) -> dict[str, Any]:
    """What a recipe says, with its profile and overrides applied."""
    shown = str(recipe.path or recipe.name)
    return document_of(recipe.text, shown, recipe.overrides, recipe.profile).content


@cache
def program_version() -> str:
    """The version of this program."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return str(project["version"])


def copied(source: Any, target: Any) -> BundleFile:
    """Copy an open file to another in little memory; its size and hash, without a name.

    Args:
        source: Open for reading bytes.
        target: Open for writing bytes.
    """
    digest, size = hashlib.sha256(), 0
    while block := source.read(BLOCK):
        target.write(block)
        digest.update(block)
        size += len(block)
    return BundleFile(name="", bytes=size, sha256=digest.hexdigest())
