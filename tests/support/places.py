"""Places to publish to, each a real server, repository or folder, under one set of names."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.support.fake_hub import TOKEN, FakeHub
from tests.support.publications import REPO, reachable

KINDS = ("hub", "s3", "folder", "git")
BUCKET = "sets"


@dataclass(frozen=True)
class Place:
    """A place to publish to.

    Args:
        to: Its address.
        state: What it holds, with nothing that differs from one publication to the next: digests
            of files by path, titles of commits.
        lose: Empties it.
        environment: What a process of its own needs to reach it.
    """

    to: str
    state: Callable[[], dict[str, Any]]
    lose: Callable[[], None]
    environment: dict[str, str] = field(default_factory=dict)


@contextmanager
def place(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A new and empty place.

    Args:
        kind: One of `KINDS`.
        folder: Where it may keep its files.
        monkeypatch: Lets the libraries of this process reach it.
    """
    makers = {"hub": _hub, "s3": _s3, "folder": _folder, "git": _git}
    with makers[kind](folder, monkeypatch) as ready:
        yield ready


@contextmanager
def _hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    hub = FakeHub(folder / "hub")

    def state() -> dict[str, Any]:
        tags = hub.read(REPO)["tags"]
        return {"titles": hub.titles(REPO), **{tag: hub.tree(REPO, tag) for tag in tags}}

    def lose() -> None:
        shutil.rmtree(folder / "hub")
        (folder / "hub").mkdir()

    with reachable(hub, monkeypatch):
        environment = {
            "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(folder / "home"), "HF_TOKEN": TOKEN,
        }  # fmt: skip
        yield Place(f"hf://{REPO}", state, lose, environment)


@contextmanager
def _s3(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = s3_environment(f"http://{host}:{port}")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    client = empty_bucket()

    def keys() -> list[str]:
        listed = client.list_objects_v2(Bucket=BUCKET).get("Contents", [])
        return [entry["Key"] for entry in listed]

    def state() -> dict[str, Any]:
        contents = {k: client.get_object(Bucket=BUCKET, Key=k)["Body"].read() for k in keys()}
        return {key: hashlib.sha256(content).hexdigest() for key, content in contents.items()}

    def lose() -> None:
        for key in keys():
            client.delete_object(Bucket=BUCKET, Key=key)

    try:
        yield Place(f"s3://{BUCKET}/chat", state, lose, environment)
    finally:
        lose()
        client.delete_bucket(Bucket=BUCKET)
        server.stop()


def s3_environment(url: str) -> dict[str, str]:
    """The variables by which boto3 reaches a server of the tests."""
    return {
        "AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip


def empty_bucket() -> Any:
    """boto3's client of the server of this process, with a bucket."""
    import boto3

    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    return client


@contextmanager
def rclone_server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """rclone's S3 server, which ignores conditions; the folder of its bucket.

    Args:
        folder: Where it may keep its files.
        monkeypatch: Lets the libraries of this process reach it.
    """
    program = Path(sysconfig.get_path("scripts")) / "rclone"
    program = program if program.exists() else Path(shutil.which("rclone") or "")
    if not program.is_file():
        pytest.skip("needs rclone")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "served").mkdir()
    words = ["serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", "key,secret"]
    config = ["--config", str(folder / "rclone.conf")]
    server = subprocess.Popen(
        [program, *words, *config, folder / "served"], stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        for name, value in s3_environment(f"http://127.0.0.1:{port}").items():
            monkeypatch.setenv(name, value)
        empty_bucket()
        yield folder / "served" / BUCKET
    finally:
        server.kill()
        server.wait()


@contextmanager
def _folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    root = folder / "published sets"

    def state() -> dict[str, Any]:
        files = [path for path in root.rglob("*") if path.is_file() and path.name != ".lock"]
        digests = {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()) for p in files}
        return {name: digest.hexdigest() for name, digest in digests.items()}

    yield Place(f"file://{root}", state, lambda: shutil.rmtree(root))


@contextmanager
def _git(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    root = folder / "sets.git"
    subprocess.run(["git", "init", "-q", "--bare", str(root)], check=True)

    def git(*words: str) -> list[str]:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    def state() -> dict[str, Any]:
        trees = {tag: git("ls-tree", "-r", tag) for tag in git("tag")}
        return {"titles": git("log", "--format=%s", "main"), **trees}

    def lose() -> None:
        shutil.rmtree(root)
        subprocess.run(["git", "init", "-q", "--bare", str(root)], check=True)

    yield Place(f"git+file://{root}", state, lose)


def publishing(at: Place, *words: str) -> subprocess.Popen[str]:
    """`python -m pipeline publish ...` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", "publish", *words, "--to", at.to],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **at.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
