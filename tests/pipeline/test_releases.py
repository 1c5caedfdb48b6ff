"""Names, versions and files of releases."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.store.files import with_checksum, without_checksum
from pipeline.store.releases import (
    FILE,
    is_reference,
    latest,
    parse_reference,
    read_release,
    release_files,
    releases,
    version_key,
    versions,
    write_release,
)
from pipeline.store.store import Store
from schemas.release import Release
from tests.pipeline.releases.building import mini, released
from tests.support.cli import call
from tests.support.running import pool, toys

PARTS = st.integers(0, 10**6)


@given(st.lists(st.tuples(PARTS, PARTS), min_size=2))
def test_versions_are_ordered_as_numbers(pairs: list[tuple[int, int]]) -> None:
    texts = [f"{major}.{minor}" for major, minor in pairs]
    assert [version_key(text) for text in sorted(texts, key=version_key)] == sorted(pairs)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "../x", "a..b", ".hidden", "-x", "a b", "a\n", "ä", "a" * 97,
             "x.", "a--b", "a\x00", "C:\\x", "~", "a@b"],
)  # fmt: skip
def test_names_that_no_folder_or_repository_can_have_are_refused(name: str) -> None:
    with pytest.raises(UserError):
        parse_reference(f"{name}@1.0")


@pytest.mark.parametrize(
    "version", ["", "1", "1.0.0", "v1.0", "01.0", "1.00", "-1.0", "1.x", "١.٠"]
)
def test_versions_that_are_none_are_refused(version: str) -> None:
    with pytest.raises(UserError, match=r"MAJOR\.MINOR"):
        parse_reference(f"chat@{version}")


def test_a_recipe_is_no_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_reference("chat@1.0")
    assert is_reference("chat@latest")
    assert not is_reference("chat")
    assert not is_reference("recipes/chat@1.0.yaml")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chat@1.0").write_text("name: chat")
    assert not is_reference("chat@1.0"), "a file of this name is a recipe"


@pytest.fixture
def first(tmp_path: Path) -> tuple[Store, Release]:
    return Store(tmp_path / "store"), released(mini(tmp_path), tmp_path / "store").release


def test_a_release_never_changes(first: tuple[Store, Release]) -> None:
    store, release = first
    write_release(store, release)  # the same one again
    with pytest.raises(UserError, match=r"mini@1.0 is there already"):
        write_release(store, {**release, "created": "2026-01-01T00:00:00+00:00"})
    assert read_release(store, "mini@1.0") == release
    with pytest.raises(UserError, match="did you mean 'mini'"):
        read_release(store, "mimi@1.0")
    with pytest.raises(UserError, match=r"mini has no version 1.7"):
        read_release(store, "mini@1.7")


def test_the_latest_is_the_highest_version(first: tuple[Store, Release]) -> None:
    store, release = first
    for version in ("1.9", "1.10", "1.2"):
        write_release(store, {**release, "version": version})
    assert versions(store, "mini") == ["1.0", "1.2", "1.9", "1.10"]
    last = latest(store, "mini")
    assert last
    assert last["version"] == "1.10" == read_release(store, "mini")["version"]
    assert latest(store, "other") is None


def resealed(text: str, **changes: object) -> str:
    """The text of a release with other values and their checksum, as another program writes it."""
    release = without_checksum(Path("release.json"), json.loads(text))
    return json.dumps(with_checksum({**release, **changes}))


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda text: text[:-5], "no JSON"),
        (lambda text: "[]", "dict"),
        (lambda text: resealed(text, files=None), "files"),
        (lambda text: resealed(text, version="2.0"), "must be mini@1.0"),
        (lambda text: text.replace('"version": "1.0"', '"version": "2.0"'), "its checksum"),
        (lambda text: text.replace('"checksum"', '"checksun"'), "no release has 'checksun'"),
        (lambda text: resealed(text, format=99), "format"),
    ],
)
def test_a_damaged_release_is_an_error(
    first: tuple[Store, Release], damage: object, why: str
) -> None:
    store, _ = first
    path = store.root / "releases" / "mini" / "1.0" / FILE
    path.write_text(damage(path.read_text()))  # type: ignore[operator]
    for read in (lambda: latest(store, "mini"), lambda: releases(store)):
        with pytest.raises(UserError, match=why):
            read()


def test_a_damaged_release_stops_no_other_name(tmp_path: Path) -> None:
    """It is shown, with the way to mend it; only what needs it refuses."""
    store, path = tmp_path / "store", tmp_path / "mini.yaml"
    pool(tmp_path / "rows.txt", 12)
    path.write_text(toys("name: mini\nstages:\n  a: {uses: toy.load, with: {path: rows.txt}}\n"))
    at = ("--store", str(store))
    assert call("refresh", str(path), *at).code == 0
    pool(tmp_path / "rows.txt", 13)
    assert call("refresh", str(path), *at).code == 0
    for damaged in ("other/1.0", "mini/1.0"):
        folder = store / "releases" / damaged
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_text("{")
    listed = call("releases", *at)
    lines = [line.split() for line in listed.stdout.splitlines()[2:]]
    assert [line[0] for line in lines] == ["mini@1.0", "mini@1.1", "other@1.0"]
    assert [line[1] == "damaged" for line in lines] == [True, False, True]
    assert f"rm -r {store}/releases/other/1.0" in listed.stderr
    entries = json.loads(call("releases", "--json", *at).stdout)
    assert ["damaged" in entry for entry in entries] == [True, False, True]
    for verb in ("release", "refresh", "status", "report", "verify"):
        more = ["-o", str(tmp_path / "page.html")] if verb == "report" else []
        done = call(verb, str(path), *more, *at)
        assert done.code == 0, (verb, done.stderr)
    assert call("diff", "mini@1.1", str(path), *at).code == 0
    to = f"file://{tmp_path}/out"
    sent = call("publish", "mini", "--to", to, *at)
    assert sent.code == 7, sent.stderr  # the gate, which no certificate passes
    for words in (("verify", "other"), ("diff", "other", "mini"), ("gc",)):
        done = call(*words, *at)
        assert (done.code, "is damaged" in done.stderr) == (2, True), (words, done.stderr)
        assert "or from where it was published" in done.stderr


def test_a_release_under_another_version_is_an_error(first: tuple[Store, Release]) -> None:
    store, _ = first
    folder = store.root / "releases" / "mini"
    (folder / "1.0").rename(folder / "2.0")
    with pytest.raises(UserError, match=r"must be mini@2.0, got mini@1.0"):
        latest(store, "mini")


def test_files_of_a_release_are_those_of_its_exports(first: tuple[Store, Release]) -> None:
    store, release = first
    files = release_files(store, release)
    assert set(files) == {file["path"] for file in release["files"]}
    assert "data/train-00000-of-00001.parquet" in files
    next(iter(files.values())).unlink()
    with pytest.raises(UserError, match="not in the store"):
        release_files(store, release)
