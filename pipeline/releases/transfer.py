"""Artifacts and releases between stores, by way of a bucket: `store push`, `store pull`.

A bucket holds them as a store does: `artifacts/<fingerprint>/`, whose manifest comes last, and
`releases/<name>/<version>/release.json`. What goes out is verified before, what comes in before
anybody sees it; what is there already is not sent again. So a call that was cut is mended by
the next one.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from typing import Final

from pipeline.errors import UserError, command_line
from pipeline.execution.plan import StepOutputs, plan, plan_step
from pipeline.execution.remote_inputs import fetch_missing
from pipeline.recipe.recipe import Recipe
from pipeline.remote.buckets import Bucket
from pipeline.store.artifact import Artifact
from pipeline.store.file_hashes import file_digest
from pipeline.store.files import DamagedFile
from pipeline.store.manifests import MANIFEST, read_manifest
from pipeline.store.releases import FILE, read_release, version_key, write_release
from pipeline.store.store import Store
from schemas.manifest import Manifest
from schemas.release import Release

PULLED: Final = "work/.pulled-*"
"""Folders of what is on its way into a store."""


@dataclass
class Transfer:
    """What a call moved.

    Attributes:
        moved: Artifacts that were sent or fetched.
        present: Artifacts that were there already.
        bytes: The size of what was moved.
        missing: Stages without an artifact at the source.
        release: The release that was moved, as `name@1.2`.
    """

    moved: int = 0
    present: int = 0
    bytes: int = 0
    missing: list[str] = field(default_factory=list)
    release: str | None = None


# Push


def push_recipe(recipe: Recipe, store: Store, bucket: Bucket) -> Transfer:
    """Send the artifacts that a recipe has in the store.

    Args:
        recipe: The recipe.
        store: Where they are.
        bucket: Where to.

    Raises:
        UserError: There is none, or one is damaged.
    """
    steps, done = plan(recipe, store), Transfer()
    done.missing = [planned.step.name for planned in steps if planned.artifact is None]
    artifacts = [planned.artifact for planned in steps if planned.artifact is not None]
    if not artifacts:
        what = f"nothing of {recipe.name} is in the store"
        raise UserError(what, where=str(store.root), hint="run it first")
    _push(artifacts, store, bucket, done)
    return done


def push_release(release: Release, store: Store, bucket: Bucket) -> Transfer:
    """Send a release and its artifacts, the release last.

    Args:
        release: The release.
        store: Where it is.
        bucket: Where to.

    Raises:
        UserError: The store lacks one of its artifacts, or one is damaged.
    """
    done = Transfer(release=f"{release['name']}@{release['version']}")
    _push([_artifact_of(release, s["fingerprint"], store) for s in release["stages"]],
          store, bucket, done)  # fmt: skip
    path = f"releases/{release['name']}/{release['version']}/{FILE}"
    bucket.put(path, store.root / path, file_digest(store.root / path))
    return done


def _artifact_of(release: Release, fingerprint: str, store: Store) -> Artifact:
    artifact = store.artifact(fingerprint)
    if artifact is None:
        reference = f"{release['name']}@{release['version']}"
        hint = command_line("verify", reference, store=store.root)
        raise UserError(f"an artifact of {reference} is not in the store", where=fingerprint,
                        hint=hint)  # fmt: skip
    return artifact


def _push(artifacts: Iterable[Artifact], store: Store, bucket: Bucket, done: Transfer) -> None:
    files = store.files()
    for artifact in artifacts:
        artifact.verify_all(files)
        prefix, manifest = f"artifacts/{artifact.fingerprint}", artifact.folder / MANIFEST
        digest, size = file_digest(manifest), manifest.stat().st_size
        if bucket.has(f"{prefix}/{MANIFEST}", digest, size):
            done.present += 1
            continue
        for name, entry in artifact.manifest["files"].items():
            if not bucket.has(f"{prefix}/{name}", entry["sha256"], entry["bytes"]):
                bucket.put(f"{prefix}/{name}", artifact.folder / name, entry["sha256"])
                done.bytes += entry["bytes"]
        bucket.put(f"{prefix}/{MANIFEST}", manifest, digest)
        done.moved += 1


# Pull


def pull_recipe(recipe: Recipe, store: Store, bucket: Bucket) -> Transfer:
    """Fetch the artifacts of a recipe, as far as they are what it would compute.

    Args:
        recipe: The recipe, with its inputs and models at hand: they decide what is fetched.
        store: Where to.
        bucket: Where from.

    Raises:
        UserError: Something that was fetched is not what its manifest says.
    """
    done, outputs = Transfer(), StepOutputs()
    with store.locked():
        fetch_missing(recipe.steps.values(), store)
        for step in recipe.steps.values():
            planned = plan_step(recipe, step, store, outputs, store.files())
            artifact = planned.artifact
            if artifact is not None:
                done.present += 1
            elif planned.fingerprint is not None:
                artifact = _pull(planned.fingerprint, store, bucket, done, own_code=True)
            if artifact is None:
                done.missing.append(step.name)
            else:
                store.set_latest(recipe.name, step.name, artifact.fingerprint)
                outputs.add(step, artifact)
    return done


def pull_release(name: str, version: str | None, store: Store, bucket: Bucket) -> Transfer:
    """Fetch a release with its artifacts, the release last.

    Args:
        name: Its name.
        version: Its version; None for the newest.
        store: Where to.
        bucket: Where from.

    Raises:
        UserError: It is not there, or something of it is not what it must be.
    """
    known = sorted(bucket.names(f"releases/{name}/"), key=version_key)
    chosen = version or (known[-1] if known else None)
    if chosen is None or chosen not in known:
        hint = f"it has {', '.join(known[-10:])}" if known else "store push NAME@VERSION sends one"
        what = f"there is no release {name}{f'@{version}' if version else ''}"
        raise UserError(what, where=bucket.address, hint=hint)
    done = Transfer(release=f"{name}@{chosen}")
    with store.locked(), _aside(store) as aside:
        path = Path("releases", name, chosen, FILE)
        (aside / path).parent.mkdir(parents=True)
        bucket.get(path.as_posix(), aside / path)
        release = read_release(Store(aside), f"{name}@{chosen}")
        for fingerprint in dict.fromkeys(stage["fingerprint"] for stage in release["stages"]):
            if store.artifact(fingerprint) is not None:
                done.present += 1
            elif _pull(fingerprint, store, bucket, done) is None:
                what = f"an artifact of {done.release} is not there"
                raise UserError(what, where=f"{bucket.address}/artifacts/{fingerprint}")
        write_release(store, release)
    return done


@contextmanager
def _aside(store: Store) -> Iterator[Path]:
    """A folder in the store for what is on its way."""
    folder = store.root / PULLED.replace("*", uuid.uuid4().hex)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        rmtree(folder, ignore_errors=True)


def _pull(
    fingerprint: str, store: Store, bucket: Bucket, done: Transfer, *, own_code: bool = False
) -> Artifact | None:
    """Fetch an artifact; None where it is not there.

    Raises:
        UserError: A file is not what the manifest says; or it was computed by other code than
            what is here, where that is asked.
    """
    prefix = f"artifacts/{fingerprint}"
    manifest = _manifest(fingerprint, store, bucket)
    if manifest is None:
        return None
    stage, version, code = manifest["stage"], manifest["version"], manifest["code"]
    known = store.code(stage, version)
    if own_code and known not in (None, code):
        raise UserError(
            f"{stage} there is other code than here, under the same version {version}",
            where=f"{bucket.address}/{prefix}",
            hint="pull with the code that made it, or run: it is computed again",
        )
    staging = store.staging(fingerprint)
    try:
        for name, entry in manifest["files"].items():
            path = staging / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not bucket.get(f"{prefix}/{name}", path) or file_digest(path) != entry["sha256"]:
                what = "a file there is not what its manifest says"
                raise UserError(what, where=f"{bucket.address}/{prefix}/{name}",
                                hint="push it again from the store that has it")  # fmt: skip
            done.bytes += entry["bytes"]
        if known is None:
            store.set_code(stage, version, code)
        artifact = store.commit(staging, manifest)
    finally:
        rmtree(staging, ignore_errors=True)
    done.moved += 1
    return artifact


def _manifest(fingerprint: str, store: Store, bucket: Bucket) -> Manifest | None:
    with _aside(store) as aside:
        path = aside / fingerprint / MANIFEST
        path.parent.mkdir()
        if not bucket.get(f"artifacts/{fingerprint}/{MANIFEST}", path):
            return None
        try:
            return read_manifest(path)
        except DamagedFile as damage:
            where = f"{bucket.address}/artifacts/{fingerprint}"
            raise UserError("the manifest there is damaged", where=where, why=damage.why) from None
