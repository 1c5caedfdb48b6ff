"""Kill a publication between any two steps: the next one ends in the same state, once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.releases.publication import Publication
from pipeline.releases.publish import publish, rollback
from tests.conftest import ROOT
from tests.support.fake_hub import FakeHub, Fault
from tests.support.publications import NAME, REPO, digests, reachable, toy_publication

TO = f"hf://{REPO}"
SCRIPT = """\
import sys
from pathlib import Path
from pipeline.releases.publish import publish, rollback
from tests.support.publications import NAME, toy_publication
folder, version, to, verb = sys.argv[1:]
if verb == "rollback":
    rollback(NAME, version, to, wait=20)
else:
    publish(toy_publication(Path(folder), version, shards=3), to, wait=20)
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with reachable(FakeHub(tmp_path / "hub"), monkeypatch) as running:
        yield running


@pytest.fixture
def first(tmp_path: Path) -> Publication:
    return toy_publication(tmp_path, "1.0", shards=3)


def killed(hub: FakeHub, folder: Path, version: str, fault: Fault, verb: str = "publish") -> None:
    """Start a call in a process of its own, which the hub kills at a step."""
    environment = {
        **os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    hub.faults = [fault]
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), version, TO, verb],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    hub.victim = process.pid
    error = process.communicate(timeout=120)[1]
    assert process.returncode == -signal.SIGKILL, error


def check_published(hub: FakeHub, publication: Publication) -> None:
    publish(publication, TO, wait=20)
    assert hub.titles(REPO) == ["initial commit", publication.title]
    tags = hub.read(REPO)["tags"]
    assert tags == {"1.0": tags["1.0"], "latest": tags["1.0"]}
    tree = hub.tree(REPO, "1.0")
    assert {path: tree[path] for path in publication.files} == digests(publication)


def test_a_kill_after_the_commit_is_mended_by_the_next_call(
    hub: FakeHub, first: Publication, tmp_path: Path
) -> None:
    killed(hub, tmp_path, "1.0", Fault("commit", "kill after"))
    assert hub.read(REPO)["tags"] == {}
    check_published(hub, first)
    assert hub.count("commit") == 1


@pytest.mark.proof
@pytest.mark.parametrize(
    ("step", "skip", "kind"),
    [
        *((step, 0, "kill after") for step in ("create", "put", "verify", "tag")),
        *((step, 1, "kill after") for step in ("tag", "cdn")),
        *((step, 0, "kill before") for step in ("create", "put", "commit", "tag")),
    ],
)
def test_a_kill_at_any_step_is_mended_by_the_next_call(
    hub: FakeHub, first: Publication, tmp_path: Path, step: str, skip: int, kind: str
) -> None:
    killed(hub, tmp_path, "1.0", Fault(step, kind, skip=skip))
    check_published(hub, first)


@pytest.mark.proof
@pytest.mark.parametrize("kind", ["kill after"])
@pytest.mark.parametrize("step", ["commit", "untag", "tag"])
def test_a_kill_within_a_rollback_is_mended_by_the_next_call(
    hub: FakeHub, first: Publication, tmp_path: Path, step: str, kind: str
) -> None:
    second = toy_publication(tmp_path, "1.1", shards=2, first=100)
    for publication in (first, second):
        publish(publication, TO, wait=20)
    killed(hub, tmp_path, "1.0", Fault(step, kind), "rollback")
    rollback(NAME, "1.0", TO, wait=20)
    titles = ["initial commit", first.title, second.title, "Roll back to chat 1.0"]
    assert hub.titles(REPO) == titles
    assert hub.tree(REPO) == hub.tree(REPO, "latest") == hub.tree(REPO, "1.0")
