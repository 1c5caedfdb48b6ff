"""Publishing to S3, into a folder and to a git repository: real servers, real git."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import Exit, UserError
from pipeline.releases.publication import Publication
from pipeline.releases.publish import erase, opened, publish, rollback
from pipeline.releases.transports import git, git_commands, git_repository, open_transport
from pipeline.remote import waiting
from pipeline.remote.waiting import Patience
from tests.support.places import BUCKET, empty_bucket, rclone_server, s3_environment
from tests.support.publications import NAME, digests, toy_publication


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_FIRST_DELAY", 0.01)


@pytest.fixture
def first(tmp_path: Path) -> Publication:
    return toy_publication(tmp_path, "1.0", shards=3)


@pytest.fixture
def second(tmp_path: Path) -> Publication:
    return toy_publication(tmp_path, "1.1", shards=2, first=100)


# Servers


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(moto: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """boto3's client on an empty bucket of a server that honours conditions."""
    import requests

    requests.post(f"{moto}/moto-api/reset", timeout=10)
    return bucket_of(moto, monkeypatch)


def bucket_of(url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in s3_environment(url).items():
        monkeypatch.setenv(name, value)
    return empty_bucket()


@pytest.fixture
def rclone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of rclone's S3 server, which ignores conditions."""
    with rclone_server(tmp_path, monkeypatch) as served:
        yield served


def objects(client: Any) -> dict[str, bytes]:
    listed = client.list_objects_v2(Bucket=BUCKET).get("Contents", [])
    keys = [entry["Key"] for entry in listed]
    return {key: client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}


def latest(client: Any) -> Any:
    return json.loads(objects(client)["chat/latest.json"])


# What every place does


@pytest.fixture(params=["s3", "folder", "git"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        request.getfixturevalue("s3")
        return f"s3://{BUCKET}/chat"
    if request.param == "folder":
        return f"file://{tmp_path}/published sets"
    subprocess.run(["git", "init", "-q", "--bare", str(tmp_path / "sets.git")], check=True)
    return f"git+file://{tmp_path}/sets.git"


def is_new(publication: Publication, to: str, move_latest: bool = True) -> bool:
    with opened(to, 10) as transport:
        transport.check(publication, move_latest)
        return transport.publish(publication, move_latest).is_new


def published(publication: Publication, to: str, tmp_path: Path) -> dict[str, bytes]:
    """What a reader fetches of a version."""
    folder = tmp_path / f"fetched-{time.monotonic_ns()}"
    folder.mkdir()
    with opened(to, 10) as transport:
        source = transport.download(publication, folder)
    return {path: (source.folder / path).read_bytes() for path in publication.files}


def test_a_version_is_published_once(place: str, first: Publication, second: Publication) -> None:
    outcome, rows = publish(first, place, wait=10)
    assert (outcome.is_new, outcome.latest, rows) == (True, "1.0", 30)
    outcome, rows = publish(first, place, wait=10)
    assert (outcome.is_new, outcome.latest, rows) == (False, None, 30)
    outcome, rows = publish(second, place, wait=10)
    assert (outcome.is_new, outcome.latest, rows) == (True, "1.1", 20)
    assert not is_new(first, place)


def test_a_version_never_changes(place: str, first: Publication, tmp_path: Path) -> None:
    is_new(first, place)
    before = published(first, place, tmp_path)
    other = toy_publication(tmp_path / "other", "1.0", first=500)
    with pytest.raises(UserError, match="published there with other content") as error:
        is_new(other, place)
    assert error.value.code is Exit.MISTAKE
    assert published(first, place, tmp_path) == before


def test_a_rollback_stays_until_the_next_version(
    place: str, first: Publication, second: Publication, tmp_path: Path
) -> None:
    is_new(first, place)
    is_new(second, place)
    shutil.rmtree(tmp_path / "store")
    assert rollback(NAME, "1.0", place).is_new
    assert not rollback(NAME, "1.0", place).is_new
    third = toy_publication(tmp_path, "1.2", first=300)
    with opened(place, 10) as transport:
        assert transport.publish(third, True).latest == "1.2"


def test_a_rollback_to_what_is_not_there_names_what_is(place: str, first: Publication) -> None:
    is_new(first, place)
    with pytest.raises(UserError, match=r"version 0\.9 is not published there") as error:
        rollback(NAME, "0.9", place)
    assert "it has 1.0" in str(error.value)


def test_an_erased_version_is_gone_and_the_others_stay(
    place: str, first: Publication, second: Publication, tmp_path: Path
) -> None:
    third = toy_publication(tmp_path, "1.2", first=300)
    for publication in (first, second, third):
        is_new(publication, place)
    with pytest.raises(UserError, match=r"must not be the current one, got 1\.2"):
        erase(["1.2"], place)
    assert erase(["1.1"], place).versions == ("1.1",)
    assert erase(["1.1"], place).versions == ()
    for publication in (first, third):
        publish(publication, place, wait=10)
    with pytest.raises(UserError, match=r"version 1\.1 is not published there"):
        rollback(NAME, "1.1", place)


# S3


def test_prefixes_of_versions_and_a_pointer(s3: Any, first: Publication) -> None:
    is_new(first, f"s3://{BUCKET}/chat")
    files = {f"chat/1.0/{path}": local.read_bytes() for path, local in first.files.items()}
    present = objects(s3)
    assert json.loads(present.pop("chat/latest.json")) == {
        "name": NAME, "version": "1.0", "newest": "1.0",
    }  # fmt: skip
    assert present == files


def test_a_bucket_without_a_prefix(s3: Any, first: Publication, second: Publication) -> None:
    for publication in (first, second):
        publish(publication, f"s3://{BUCKET}", wait=10)
    rollback(NAME, "1.0", f"s3://{BUCKET}")
    assert erase(["1.1"], f"s3://{BUCKET}").files == len(second.files)


def test_an_interrupted_upload_is_finished(s3: Any, first: Publication) -> None:
    transport = open_transport(f"s3://{BUCKET}/chat", Patience(5))
    put = transport.client.put_object  # type: ignore[attr-defined]

    def dies(**options: Any) -> Any:
        if options["Key"].endswith("release.json"):
            raise KeyboardInterrupt
        return put(**options)

    transport.client.put_object = dies  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        transport.publish(first, True)
    assert "chat/1.0/release.json" not in objects(s3)
    stamps = {o["Key"]: o["LastModified"] for o in s3.list_objects_v2(Bucket=BUCKET)["Contents"]}
    assert is_new(first, f"s3://{BUCKET}/chat")
    after = {o["Key"]: o["LastModified"] for o in s3.list_objects_v2(Bucket=BUCKET)["Contents"]}
    assert {key: after[key] for key in stamps} == stamps, "what was there is not sent again"


def test_of_publishers_at_once_the_newest_is_current(s3: Any, tmp_path: Path) -> None:
    publications = [toy_publication(tmp_path, f"1.{n}", shards=1, first=n) for n in range(6)]
    threads = [
        threading.Thread(target=is_new, args=(publication, f"s3://{BUCKET}/chat"))
        for publication in publications
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert latest(s3)["version"] == "1.5"
    assert sum(key.endswith("release.json") for key in objects(s3)) == 6


def test_erasing_removes_what_a_bucket_keeps(
    s3: Any, first: Publication, second: Publication
) -> None:
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    is_new(first, f"s3://{BUCKET}/chat")
    is_new(second, f"s3://{BUCKET}/chat")
    erase(["1.0"], f"s3://{BUCKET}/chat")
    kept = s3.list_object_versions(Bucket=BUCKET)
    assert not [entry for entry in kept["Versions"] if "/1.0/" in entry["Key"]]
    assert not [entry for entry in kept.get("DeleteMarkers", []) if "/1.0/" in entry["Key"]]


@pytest.mark.parametrize("missing", ["bucket", "server", "login"])
def test_errors_of_s3_say_what_is_wrong(
    s3: Any, first: Publication, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    to, code = f"s3://{BUCKET}/chat", Exit.MISTAKE
    if missing == "bucket":
        to = "s3://nothing-here/chat"
    elif missing == "server":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        code = Exit.TRY_AGAIN
    else:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("HOME", "/nonexistent")
    with pytest.raises(UserError) as error:
        publish(first, to, wait=0.5)
    assert error.value.code is code
    assert "secret" not in str(error.value)


def test_a_server_that_ignores_conditions_gets_no_latest(
    rclone: Path, first: Publication, second: Publication
) -> None:
    to = f"s3://{BUCKET}/chat"
    with pytest.raises(UserError, match="ignores conditional writes") as error:
        publish(first, to, wait=10)
    assert "--no-latest" in str(error.value)
    assert not [path for path in rclone.rglob("*") if path.is_file()], "nothing was sent"
    outcome, rows = publish(first, to, move_latest=False, wait=10)
    assert (outcome.is_new, outcome.latest, rows) == (True, None, 30)
    publish(second, to, move_latest=False, wait=10)
    assert not publish(first, to, move_latest=False, wait=10)[0].is_new
    assert not (rclone / "chat/latest.json").exists()
    for path, local in first.files.items():
        assert (rclone / "chat/1.0" / path).read_bytes() == local.read_bytes()


# A folder


def test_a_folder_has_versions_and_latest(
    tmp_path: Path, first: Publication, second: Publication
) -> None:
    to = f"file://{tmp_path}/published"
    publish(first, to)
    publish(second, to)
    root = tmp_path / "published"
    assert (root / "latest").resolve() == root / "1.1"
    rollback(NAME, "1.0", to)
    assert (root / "latest").resolve() == root / "1.0"
    files = {p.relative_to(root / "1.0").as_posix() for p in (root / "1.0").rglob("*.*")}
    assert files == set(first.files)


def test_what_a_killed_call_left_in_a_folder_is_removed(tmp_path: Path, first: Publication) -> None:
    root = tmp_path / "published"
    half = root / ".1.0-0a1b2c3d" / "data"
    half.mkdir(parents=True)
    (root / ".latest-0a1b2c3d").symlink_to("1.0")
    (root / "notes").mkdir()
    publish(first, f"file://{root}")
    names = {"1.0", "latest", "latest.json", "notes", ".lock"}
    assert {path.name for path in root.iterdir()} == names


def test_two_names_do_not_share_a_folder(tmp_path: Path, first: Publication) -> None:
    root = tmp_path / "published"
    root.mkdir()
    pointer = {"name": "other", "version": "1.0", "newest": "1.0"}
    (root / "latest.json").write_text(json.dumps(pointer))
    with pytest.raises(UserError, match="must hold releases of 'chat', got 'other'"):
        publish(first, f"file://{root}")


@pytest.mark.parametrize(
    "to", ["file://relative/x", "file:///", "ftp://host/x", "hf://org", "s3://", "x"]
)
def test_addresses_that_are_none(to: str) -> None:
    with pytest.raises(UserError, match="address"):
        open_transport(to, Patience())


# git


def run_git(repository: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", *words], cwd=repository, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_a_push_is_one_commit_with_its_tags(
    tmp_path: Path, first: Publication, second: Publication
) -> None:
    repository = tmp_path / "sets.git"
    subprocess.run(["git", "init", "-q", "--bare", str(repository)], check=True)
    to = f"git+file://{repository}"
    publish(first, to)
    publish(second, to)
    titles = run_git(repository, "log", "--format=%s", "main").split("\n")
    assert titles[:2] == [second.title, first.title]
    for publication in (first, second):
        tree = run_git(repository, "ls-tree", "-r", "--name-only", publication.version)
        assert set(tree.split()) - {".gitattributes"} == set(publication.files)
    refs = dict(line.split()[::-1] for line in run_git(repository, "show-ref").splitlines())
    assert refs["refs/heads/main"] == refs["refs/tags/latest"] == refs["refs/tags/1.1"]


def test_another_push_in_between_is_kept(
    tmp_path: Path, first: Publication, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "sets.git"
    subprocess.run(["git", "init", "-q", "--bare", str(repository)], check=True)
    pushes: list[Any] = []
    push = git_repository.GitRepository.push

    def late(self: Any, folder: Path, new: Any, refs: Any) -> None:
        if not pushes:
            blob = run_git(folder, "hash-object", "-w", "/dev/null").strip()
            tree = subprocess.run(
                ["git", "mktree"], cwd=folder, input=f"100644 blob {blob}\tLICENSE\n",
                capture_output=True, text=True, check=True,
            ).stdout.strip()  # fmt: skip
            commit = self.commit_tree(folder, tree, "-m", "Add a license")
            run_git(folder, "push", "-q", "origin", f"{commit}:refs/heads/main")
        pushes.append(new)
        push(self, folder, new, refs)

    monkeypatch.setattr(git_repository.GitRepository, "push", late)
    publish(first, f"git+file://{repository}")
    assert len(pushes) == 2
    assert run_git(repository, "log", "--format=%s", "main").split("\n")[:2] == [
        first.title, "Add a license",
    ]  # fmt: skip
    assert "LICENSE" in run_git(repository, "ls-tree", "--name-only", "1.0")


def test_a_file_that_is_too_large_without_lfs_is_refused(
    tmp_path: Path, first: Publication, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["git", "init", "-q", "--bare", str(tmp_path / "sets.git")], check=True)
    monkeypatch.setattr(git, "PLAIN_LIMIT", 1000)
    monkeypatch.setattr(git, "has_lfs", lambda: False)
    with pytest.raises(UserError, match="a file without Git LFS must have at most") as error:
        publish(first, f"git+file://{tmp_path}/sets.git")
    assert "git-lfs" in str(error.value)
    assert not run_git(tmp_path / "sets.git", "for-each-ref")


def test_shards_go_by_lfs_where_it_is_installed(
    tmp_path: Path, first: Publication, second: Publication
) -> None:
    if not git_commands.has_lfs():
        pytest.skip("needs git-lfs")
    repository = tmp_path / "sets.git"
    subprocess.run(["git", "init", "-q", "--bare", str(repository)], check=True)
    to = f"git+file://{repository}"
    assert publish(first, to)[1] == 30
    publish(second, to)
    pointer = run_git(repository, "show", "1.0:data/train-00000-of-00003.parquet")
    assert f"oid sha256:{digests(first)['data/train-00000-of-00003.parquet']}" in pointer
    assert not is_new(first, to)
    assert rollback(NAME, "1.0", to).is_new


def test_a_repository_that_is_not_there_is_named(tmp_path: Path, first: Publication) -> None:
    with pytest.raises(UserError, match="git ls-remote fails") as error:
        publish(first, f"git+file://{tmp_path}/nothing.git")
    assert "nothing.git" in str(error.value)


def test_a_password_in_an_address_is_shown_to_nobody(
    first: Publication, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError) as error:
        publish(first, "git+http://me:hunter2@127.0.0.1:9/sets.git", wait=0.3)
    assert error.value.code is Exit.TRY_AGAIN
    assert "hunter2" not in str(error.value)
    assert os.environ.get("GIT_TERMINAL_PROMPT") is None
