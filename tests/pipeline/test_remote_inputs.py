"""Inputs that lie elsewhere: fetched once and whole, whatever their servers do; then read here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import boto3
import pytest

from pipeline.errors import Exit, RecipeErrors, UserError
from pipeline.execution.plan import plan
from pipeline.recipe.recipe import Recipe
from pipeline.releases.collect import collect
from pipeline.remote import waiting
from pipeline.remote.addresses import is_remote, mistake, parse
from pipeline.store.store import Store
from tests.support.fake_hub import FakeHub
from tests.support.places import empty_bucket, place, rclone_server
from tests.support.publications import reachable
from tests.support.running import called, run

SETS = "sets"


def rows(numbers: range) -> bytes:
    lines = [{"prompt": f"What is {n} plus {n}?", "completion": f"It is {2 * n}."} for n in numbers]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def recipe(path: object, folder: Path, more: str = "") -> Recipe:
    text = (
        f"name: far\n{more}stages:\n"
        "  pool: {uses: load.records, with: {source: far, license: MIT, "
        f"path: {json.dumps(path)}}}}}\n"
        "  chosen: {uses: select.random, needs: pool, with: {budget: 5}}\n"
        "  shards: {uses: export.parquet, needs: chosen}\n"
    )
    (folder / "far.yaml").write_text(text)
    return Recipe.load(str(folder / "far.yaml"))


def kept(wired: Recipe, store: Path) -> int:
    return next(p.artifact.kept for p in plan(wired, Store(store)) if p.artifact is not None)


# Addresses


@pytest.mark.parametrize(
    ("address", "name", "url"),
    [
        ("s3://bucket/a/b.jsonl.gz", "b.jsonl.gz", "s3://bucket/a/b.jsonl.gz"),
        ("hf://datasets/a/b@v1/c/d.parquet", "d.parquet", "hf://datasets/a/b@v1/c/d.parquet"),
        (
            f"https://e.org/a%20b.csv?x=1#sha256={'0' * 64}",
            "a b.csv",
            "https://e.org/a%20b.csv?x=1",
        ),
        ("gs://bucket/a#b.jsonl", "a#b.jsonl", "gs://bucket/a#b.jsonl"),
    ],
)
def test_an_address_has_a_name_and_a_url(address: str, name: str, url: str) -> None:
    assert is_remote(address)
    assert mistake(address) is None
    assert (parse(address).name, parse(address).url) == (name, url)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("https://e.org/a.jsonl", "#sha256=HEX"),
        ("https://e.org/a.jsonl#sha256=12", "#sha256=HEX"),
        (f"https://me:secret@e.org/a.jsonl#sha256={'0' * 64}", "password"),
        ("s3://bucket", "s3://BUCKET/PATH"),
        ("s3://bucket/folder/", "name a file"),
        ("hf://owner/name/a.jsonl", "hf://datasets/OWNER/NAME/PATH"),
        ("file:///tmp/a.jsonl", "must be a path"),
    ],
)
def test_a_wrong_address_is_told_with_the_recipe(address: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeErrors, match=why):
        recipe(address, tmp_path)


# The web


@contextmanager
def web(answer: Callable[[int], tuple[int, bytes, int]]) -> Iterator[tuple[str, list[str]]]:
    """A server whose n-th answer is a status, a body, and how many bytes it says it has."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            status, body, length = answer(len(asked))
            self.send_response(status)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_FIRST_DELAY", 0.01)
    monkeypatch.setattr("pipeline.execution.remote_inputs._WAIT", 0.5)


@pytest.mark.usefixtures("hasty")
def test_a_page_is_fetched_once_and_whole(tmp_path: Path) -> None:
    """The server is busy first, then breaks off in the middle."""
    content = rows(range(20))
    faults = [(503, b"", 0), (200, content[:100], len(content))]

    def answer(number: int) -> tuple[int, bytes, int]:
        return faults[number - 1] if number <= len(faults) else (200, content, len(content))

    with web(answer) as (url, asked):
        address = f"{url}/pool.jsonl#sha256={hashlib.sha256(content).hexdigest()}"
        wired, store = recipe(address, tmp_path), tmp_path / "store"
        pool = plan(wired, Store(store))[0]
        assert pool.state == "unknown"
        assert "is fetched, which run does" in pool.causes[0]
        assert not asked, "a plan asks nobody"
        assert run(wired, store) is Exit.DONE
        assert len(asked) == 3
    assert run(wired, store) is Exit.DONE, "a second run needs no server"
    assert kept(wired, store) == 20
    assert all(planned.state == "cached" for planned in plan(wired, Store(store)))
    text = next((store / "artifacts").rglob("manifest.json")).read_text()
    assert str(tmp_path) not in text


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("status", "body", "code", "what"),
    [
        (200, b"other", Exit.MISTAKE, "its sha256 must be"),
        (404, b"", Exit.SOURCE_LOST, "answered 404"),
        (403, b"", Exit.MISTAKE, "answered 403"),
        (500, b"", Exit.TRY_AGAIN, "did not answer in time"),
    ],
)
def test_a_page_that_is_not_what_it_must_be_is_an_error(
    status: int, body: bytes, code: Exit, what: str, tmp_path: Path
) -> None:
    with web(lambda _: (status, body, len(body))) as (url, _):
        wired = recipe(f"{url}/a.jsonl#sha256={'0' * 64}", tmp_path)
        with pytest.raises(UserError, match=what) as error:
            run(wired, tmp_path / "store")
    assert error.value.code is code
    assert not [*(tmp_path / "store" / "inputs").rglob("*.jsonl")] or status == 200
    assert not (tmp_path / "store" / "inputs.json").exists()


# S3 and the hub


@contextmanager
def bucket(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, bytes], None]]:
    with place("s3", folder, monkeypatch):
        client = boto3.client("s3")
        yield lambda key, content: client.put_object(Bucket=SETS, Key=key, Body=content)


@contextmanager
def repository(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str, bytes], None]]:
    hub, tree = FakeHub(folder / "hub"), dict[str, Any]()
    with reachable(hub, monkeypatch):
        hub.create("me/sets")

        def put(path: str, content: bytes) -> None:
            tree[path] = hub.entry(content, lfs=False)
            hub.add_commit("me/sets", "main", path, dict(tree))

        yield put


@contextmanager
def rclone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, bytes], None]]:
    with rclone_server(folder, monkeypatch):
        client = boto3.client("s3")
        yield lambda key, content: client.put_object(Bucket=SETS, Key=key, Body=content)


PLACES = {
    "rclone": (rclone, f"s3://{SETS}/in/pool-*.jsonl"),
    "s3": (bucket, f"s3://{SETS}/in/pool-*.jsonl"),
    "hub": (repository, "hf://datasets/me/sets/in/pool-*.jsonl"),
}


@pytest.mark.parametrize("kind", PLACES)
def test_a_pattern_is_fetched_and_only_a_refresh_looks_again(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, address = PLACES[kind]
    store = tmp_path / "store"
    with opened(tmp_path, monkeypatch) as put:
        put("in/pool-1.jsonl", rows(range(20)))
        put("in/pool-2.jsonl", rows(range(20, 30)))
        put("in/other.jsonl", rows(range(90, 99)))
        wired = recipe(address, tmp_path)
        assert run(wired, store) is Exit.DONE
        assert kept(wired, store) == 30
        first = [planned.fingerprint for planned in plan(wired, Store(store))]
        put("in/pool-3.jsonl", rows(range(30, 35)))
        assert run(wired, store) is Exit.DONE
        assert kept(wired, store) == 30, "a run gives what the store has seen"

        path = str(tmp_path / "far.yaml")
        assert "far@1.0" in called("refresh", path, "--store", str(store)).stdout
        assert kept(wired, store) == 35
        assert "nothing new" in called("refresh", path, "--store", str(store)).stdout
        assert first[0] != plan(wired, Store(store))[0].fingerprint
        assert "copies of inputs" in collect(Store(store), 0)
        collect(Store(store), 0, delete=True)
        assert all(planned.state == "cached" for planned in plan(wired, Store(store)))

        # A copy that is damaged is fetched again, and is what it was.
        copy = next((store / "inputs").rglob("pool-1.jsonl"))
        copy.write_bytes(b"{}")
        assert run(wired, store) is Exit.DONE
        assert copy.read_bytes() == rows(range(20))
        assert [p.name for p in (store / "inputs").iterdir() if p.name.startswith(".")] == []

        # What changed and has no copy is not taken for what it was.
        copy.unlink()
        put("in/pool-1.jsonl", rows(range(3)))
        with pytest.raises(UserError, match="something else now"):
            run(wired, store)


@pytest.mark.parametrize("kind", PLACES)
def test_what_is_not_there_is_told(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, address = PLACES[kind]
    with opened(tmp_path, monkeypatch) as put:
        put("in/else.jsonl", rows(range(3)))
        for missing in (address, address.replace("pool-*", "pool")):
            with pytest.raises(UserError, match=r"(?:is|not) there") as error:
                run(recipe(missing, tmp_path), tmp_path / "store")
            assert error.value.code is Exit.SOURCE_LOST


def test_a_bucket_that_refuses_and_one_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with place("s3", tmp_path, monkeypatch):
        empty_bucket()
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        with pytest.raises(UserError, match="AWS_ACCESS_KEY_ID"):
            run(recipe("s3://sets/a.jsonl", tmp_path), tmp_path / "store")


def test_a_scheme_without_a_package_says_which(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"(?i)gcsfs|not known"):
        run(recipe("gs://bucket/a.jsonl", tmp_path), tmp_path / "store")
    result = called("run", str(tmp_path / "far.yaml"), "--store", str(tmp_path / "store"))
    assert result.returncode == Exit.MISTAKE
    assert "Traceback" not in result.stderr
