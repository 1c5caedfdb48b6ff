"""Rebuilding from a bundle: its zip file is read as data of a stranger.

Nothing of it is unpacked but the code of its own stages, and that only with `--trust`: into a
folder of the store, below which every name must stay. What the recipe reads must be here, byte
for byte, before anything runs; what comes out is compared with what the release has.
"""

from __future__ import annotations

import json
import shutil
import sys
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pipeline.errors import UserError
from pipeline.execution.remote_inputs import copies
from pipeline.hints import display
from pipeline.recipe.code_hash import code_hash, prompt_digests
from pipeline.recipe.discovery import available
from pipeline.recipe.options import resolve
from pipeline.recipe.prompts import prompt_key
from pipeline.recipe.recipe import Recipe, document_of
from pipeline.releases.bundle import (
    BUNDLE,
    JOURNAL,
    OWN,
    PROMPTS,
    RECIPE,
    RELEASE,
    model_files,
)
from pipeline.releases.bundle_archive import (
    checked_names,
    damaged,
    import_journal,
    loaded,
    open_archive,
    read_json_member,
    read_member,
    refused,
)
from pipeline.store.artifact import Artifact
from pipeline.store.file_hashes import FileDigests, file_digest
from pipeline.store.store import Store
from schemas.bundle import FORMAT, Bundle, BundleInput
from schemas.release import Release

_RISKY: Final = ("trust_remote_code", "hf_overrides")
"""Engine options that run or change code of a model's folder."""


@dataclass(frozen=True)
class OpenedBundle:
    """A bundle whose inputs are here.

    Attributes:
        recipe: Its recipe; paths are looked for beside the zip file, then in the repository.
        release: The release that it rebuilds.
        notes: What differs from where it was made and may change the result.
    """

    recipe: Recipe
    release: Release
    notes: list[str]

    def differences(self, artifacts: Mapping[str, Artifact]) -> list[str]:
        """Which files of the release came out otherwise, or not at all.

        Args:
            artifacts: The artifacts of the stages that ran, by stage.
        """
        wrong = []
        for file in self.release["files"]:
            if artifact := artifacts.get(file["stage"]):
                entry = artifact.manifest["files"].get(f"files/{file['path']}")
                if entry is None or entry["sha256"] != file["sha256"]:
                    actual = entry["sha256"] if entry else "no such file"
                    name = f"{file['stage']}/{file['path']}"
                    wrong.append(f"{name} must have sha256 {file['sha256']}, got {actual}")
        return wrong


def open_bundle(
    path: Path, store: Store, overrides: Sequence[str] = (), *, trust: bool = False
) -> OpenedBundle:
    """Read a bundle, check that all it needs is here, and take its answers into the journal.

    Args:
        path: The zip file.
        store: Where its answers and the code of its own stages go.
        overrides: What `--set` changes, such as the path of an input; applied last.
        trust: Whether its own code may run.

    Raises:
        UserError: It is no bundle, is damaged, wants to run code without `trust`, or something
            that it needs is missing or another one.
    """
    path = path.absolute()
    with open_archive(path) as archive:
        names = checked_names(path, archive)
        bundle: Bundle = read_json_member(path, archive, BUNDLE, Bundle)
        if bundle["format"] != FORMAT:
            what = f"the format of a bundle must be {FORMAT}, got {bundle['format']}"
            raise refused(path, what, hint=f"use Gristmill {bundle['program']}")
        members = {member["name"]: member for member in bundle["members"]}
        if names != {BUNDLE, *members}:
            odd = sorted(names ^ {BUNDLE, *members})[0]
            raise refused(path, f"its list of files is wrong about {odd!r}")
        texts = {n: read_member(path, archive, m) for n, m in members.items() if n != JOURNAL}
        release = loaded(path, RELEASE, texts[RELEASE], Release)
        recipe = _recipe(path, store, bundle, release, texts, overrides, trust)
        notes = _check_versions(path, bundle, recipe)
        if JOURNAL in members:
            import_journal(path, archive, members[JOURNAL], store)
    return OpenedBundle(recipe, release, notes)


def _recipe(
    path: Path,
    store: Store,
    bundle: Bundle,
    release: Release,
    texts: Mapping[str, bytes],
    overrides: Sequence[str],
    trust: bool,
) -> Recipe:
    """The recipe, whose stages can be imported and whose inputs are here."""
    try:
        text = texts[RECIPE].decode()
    except UnicodeDecodeError as error:
        raise damaged(path, RECIPE, str(error)) from None
    applied = release["recipe"]
    changes, profile = [*applied["overrides"], *overrides], applied["profile"]
    content = document_of(text, display(path), changes, profile).content
    # Files that only a publication reads are no part of a bundle.
    publication = content.get("publish") if isinstance(content, dict) else None
    publication = publication if isinstance(publication, dict) else {}
    changes += [f"publish.{key}=null" for key in ("card", "takedown") if publication.get(key)]
    changes += _unpack_prompts(store, path, content, texts)
    own = {name: texts[name] for name in texts if name.startswith(OWN)}
    if not trust and (risks := [*_own_stages(content), *_risky_models(content)]):
        raise refused(
            path,
            f"it would run code that Gristmill does not ship: {', '.join(risks)}",
            hint="read what the zip has under own/ and in recipe.yaml; --trust runs it",
        )
    if own and trust:
        _unpack(store, path, own)
    missing = list(_missing(bundle, content, path.parent, store))
    if missing:
        raise _inputs_error(path, missing)
    recipe = Recipe.from_text(text, path, changes, profile)
    if other := [*_wrong_own_files(bundle, recipe, store.files()), *_unlisted(bundle, recipe)]:
        raise _inputs_error(path, other)
    return recipe


def _sections(content: Any, name: str) -> dict[str, Any]:
    """The mappings of a section by name; what is none is for the recipe's own checks."""
    section = content.get(name) if isinstance(content, dict) else None
    entries = section.items() if isinstance(section, dict) else ()
    return {str(key): value for key, value in entries if isinstance(value, dict)}


def _own_stages(content: Any) -> list[str]:
    shipped = set(available())
    stages = _sections(content, "stages")
    return [f"{n} ({s.get('uses')})" for n, s in stages.items() if s.get("uses") not in shipped]


def _risky_models(content: Any) -> list[str]:
    """Models that name an interpreter, or run code of their folder."""
    risks = []
    for name, model in _sections(content, "models").items():
        options = model.get("engine_options")
        risky = [key for key in _RISKY if isinstance(options, dict) and options.get(key)]
        risky += ["python"] if model.get("python") else []
        risks += [f"model {name} ({', '.join(risky)})"] if risky else []
    return risks


def _unpack(store: Store, path: Path, own: Mapping[str, bytes]) -> None:
    """Put the code of the bundle's own stages where it is imported from."""
    folder = store.root / "bundles" / file_digest(path)[:32]
    if not folder.exists():
        staging = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:8]}")
        for name, content in own.items():
            file = staging / name.removeprefix(OWN)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        try:
            staging.rename(folder)
        except OSError:  # another run was faster
            shutil.rmtree(staging)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _unpack_prompts(
    store: Store, path: Path, content: Any, texts: Mapping[str, bytes]
) -> Iterator[str]:
    """Put the templates that the recipe names into the store; changes that name them there."""
    section = content.get("prompts") if isinstance(content, dict) else None
    keys = [name.removeprefix(PROMPTS) for name in texts if name.startswith(PROMPTS)]
    folder = store.root / "bundles" / f"{file_digest(path)[:32]}-prompts"
    for name, value in section.items() if isinstance(section, dict) else ():
        key = prompt_key(str(name), keys)
        if value is not None and key in keys:
            file, partial = folder / key, folder / f".{uuid.uuid4().hex}"
            file.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(texts[PROMPTS + key])
            partial.replace(file)
            yield f"prompts.{name}={json.dumps(str(file))}"


def _missing(bundle: Bundle, content: Any, folder: Path, store: Store) -> Iterator[str]:
    """What the bundle lists and is not here, or another one: with what was expected."""
    files = store.files()
    stages, models = _sections(content, "stages"), _sections(content, "models")
    for listed in (entry for entry in bundle["inputs"] if entry["option"] is not None):
        options = stages.get(listed["stage"], {}).get("with")
        written = options.get(listed["option"]) if isinstance(options, dict) else None
        paths, _ = resolve(written, folder) if written else ((), None)
        existing = [Path(path) for path in copies(paths, store) if Path(path).is_file()]
        yield from _wrong_files(listed, existing, files)
    here = [e for name, raw in models.items() for e in model_files(name, raw, folder, files)]
    digests = {(entry["model"], entry["key"]): entry["digest"] for entry in here}
    for model in bundle["models"]:
        digest = digests.get((model["model"], model["key"]))
        if digest != model["digest"]:
            state = "is missing" if digest is None else f"has the digest {digest}"
            yield (
                f"models.{model['model']}.{model['key']}: {model['path']} {state}: it must have "
                f"{model['bytes']:,} bytes, digest {model['digest']}"
            )


def _wrong_files(listed: BundleInput, here: list[Path], files: FileDigests) -> Iterator[str]:
    """The files of an input that are not as the bundle lists them, in the order of a stage."""
    option = f".with.{listed['option']}" if listed["option"] else ""
    where = f"stages.{listed['stage']}{option}: {listed['path']}"
    actual = dict(zip([path.name for path in here], files.get_many(here), strict=True))
    hashes = Counter(actual.values())
    for file in listed["files"]:
        if hashes[file["sha256"]] > 0:
            hashes[file["sha256"]] -= 1
            continue
        expected = f"it must have {file['bytes']:,} bytes, sha256 {file['sha256']}"
        name = "" if file["name"] == Path(listed["path"]).name else f" ({file['name']})"
        other = actual.get(file["name"])
        sizes = {path.name: path.stat().st_size for path in here}
        state = f"has {sizes[file['name']]:,} bytes, sha256 {other}" if other else "is missing"
        yield f"{where}{name} {state}: {expected}"
    for path in here[len(listed["files"]) :]:
        yield f"{where}: {path.name} is one file too many"


def _wrong_own_files(bundle: Bundle, recipe: Recipe, files: FileDigests) -> Iterator[str]:
    """The same of what a stage reads by itself: shipped files, the folder of a data set.

    Which files these are the stage says, once its options are bound.
    """
    for listed in (entry for entry in bundle["inputs"] if entry["option"] is None):
        step = recipe.steps.get(listed["stage"])
        if step is not None:
            yield from _wrong_files(listed, step.stage.input_files(step.options), files)


def _unlisted(bundle: Bundle, recipe: Recipe) -> Iterator[str]:
    """Files that the recipe would read and the bundle does not list."""
    listed = {(entry["stage"], entry["option"]) for entry in bundle["inputs"]}
    for step in recipe.steps.values():
        for option in step.stage.options:
            reads = option.names_files and getattr(step.options, option.name)
            if reads and (step.name, option.name) not in listed:
                yield f"stages.{step.name}.with.{option.name}: the bundle does not list it"
        if step.stage.input_files(step.options) and (step.name, None) not in listed:
            yield f"stages.{step.name}: the bundle does not list what it reads"


def _inputs_error(path: Path, problems: Iterable[str]) -> UserError:
    texts = list(problems)
    number = f"{len(texts)} input{'s' * (len(texts) != 1)}"
    return refused(
        path,
        f"{number} of the bundle {'are' if len(texts) != 1 else 'is'} not here, byte for byte",
        "\n    ".join(texts),
        f"put them beside {path.name} under these paths, or name others: --set "
        "stages.STAGE.with.OPTION=PATH",
    )


def _check_versions(path: Path, bundle: Bundle, recipe: Recipe) -> list[str]:
    """What of the code differs and may change the result.

    Raises:
        UserError: A stage has another version or other prompts, which gives other rows.
    """
    expected = {stage["uses"]: stage for stage in bundle["stages"]}
    notes, problems = [], []
    for stage in {step.stage.name: step.stage for step in recipe.steps.values()}.values():
        listed = expected.get(stage.name)
        digests = prompt_digests(stage)
        if listed is None:
            notes.append(f"the bundle does not list the stage {stage.name}")
        elif stage.version != listed["version"]:
            versions = f"must have version {listed['version']}, got {stage.version}"
            problems.append(f"{stage.name} {versions}")
        elif digests != listed["prompts"]:
            problems.append(f"{stage.name} has other prompts")
        elif code_hash(stage) != listed["code"]:
            notes.append(f"the code of {stage.name} is not the same: rows may differ")
    if problems:
        raise refused(
            path,
            "the stages here are not those of the bundle",
            "; ".join(problems),
            f"use Gristmill {bundle['program']}, or the commit of it that made the bundle",
        )
    return notes
