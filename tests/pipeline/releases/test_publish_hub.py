"""Publishing to a hub that makes every fault: it ends in the same state, once."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import Exit, UserError
from pipeline.releases.publication import Publication
from pipeline.releases.publish import erase, opened, publish, rollback
from pipeline.releases.transports import Outcome
from pipeline.remote import waiting
from tests.support.fake_hub import TOKEN, FakeHub, Fault
from tests.support.publications import NAME, REPO, digests, reachable, toy_publication

TO = f"hf://{REPO}"
STEPS = (
    "info", "create", "refs", "commits", "tree", "preupload", "batch", "put", "verify",
    "validate-yaml", "commit", "tag",
)  # fmt: skip
"""The requests of a first publication."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(waiting, "_FIRST_DELAY", 0.01)
    with reachable(FakeHub(tmp_path / "hub"), monkeypatch) as running:
        yield running


@pytest.fixture
def first(tmp_path: Path) -> Publication:
    return toy_publication(tmp_path, "1.0", shards=3)


@pytest.fixture
def second(tmp_path: Path) -> Publication:
    return toy_publication(tmp_path, "1.1", shards=2, first=100)


def send(publication: Publication, wait: float = 10.0) -> Outcome:
    """Publish without reading back, which other tests do."""
    with opened(TO, wait) as transport:
        return transport.publish(publication, True)


def check_published(hub: FakeHub, publication: Publication, *before: str) -> None:
    """One commit after those before it, with its tag and `latest` on it, and its files."""
    commits = [commit["title"] for commit in hub.history(REPO, publication.version)][::-1]
    assert commits == ["initial commit", *before, publication.title]
    tags = hub.read(REPO)["tags"]
    assert tags["latest"] == tags[publication.version]
    tree = hub.tree(REPO, publication.version)
    assert {path: tree[path] for path in publication.files} == digests(publication)


# What is published


def test_what_was_published_is_what_its_users_load(hub: FakeHub, first: Publication) -> None:
    outcome, rows = publish(first, TO, wait=10)
    assert (outcome.is_new, outcome.latest, rows) == (True, "1.0", 30)
    check_published(hub, first)
    assert hub.tree(REPO).keys() - first.files.keys() == {".gitattributes"}


def test_large_files_are_there_before_the_commit_that_names_them(
    hub: FakeHub, first: Publication
) -> None:
    send(first)
    assert max(i for i, step in enumerate(hub.log) if step == "verify") < hub.log.index("commit")
    assert hub.log.index("commit") < hub.log.index("tag")


def test_publishing_again_changes_nothing(hub: FakeHub, first: Publication) -> None:
    send(first)
    state, writes = hub.read(REPO), len(hub.log)
    outcome, rows = publish(first, TO, wait=10)
    assert (outcome.is_new, outcome.latest, rows) == (False, None, 30)
    assert hub.read(REPO) == state
    assert not {"create", "put", "commit", "tag", "untag"} & set(hub.log[writes:])


def test_the_next_version_replaces_our_files_and_no_others(
    hub: FakeHub, first: Publication, second: Publication
) -> None:
    send(first)
    state = hub.read(REPO)
    tree = {**state["commits"][-1]["tree"], "LICENSE": hub.entry(b"as is", lfs=False)}
    hub.add_commit(REPO, "main", "Add a license", tree)
    publish(second, TO, wait=10)
    check_published(hub, second, first.title, "Add a license")
    assert hub.tree(REPO).keys() == {*second.files, ".gitattributes", "LICENSE"}


def test_a_card_that_reads_differently_today_is_no_other_release(
    hub: FakeHub, first: Publication
) -> None:
    send(first)
    card = first.files["README.md"]
    card.write_text(card.read_text() + "more\n")
    assert not send(first).is_new


def test_a_version_never_changes(hub: FakeHub, first: Publication, tmp_path: Path) -> None:
    send(first)
    state = hub.read(REPO)
    other = toy_publication(tmp_path / "other", "1.0", first=500)
    with pytest.raises(UserError, match="published there with other content") as error:
        send(other)
    assert error.value.code is Exit.MISTAKE
    assert hub.read(REPO) == state


def test_an_older_version_does_not_take_the_place_of_a_newer_one(
    hub: FakeHub, first: Publication, second: Publication
) -> None:
    send(second)
    with pytest.raises(UserError, match=r"must be newer than .* got 1.0 after 1.1"):
        send(first)
    assert hub.titles(REPO) == ["initial commit", second.title]


# Faults


@pytest.mark.parametrize("kind", [429, 500, "cut before", "cut after"])
@pytest.mark.parametrize("step", STEPS)
def test_a_fault_at_any_step_is_waited_out(
    hub: FakeHub, first: Publication, step: str, kind: int | str
) -> None:
    hub.faults = [Fault(step, kind)]
    send(first)
    assert hub.faults[0].times == 0, "the fault was not met"
    check_published(hub, first)


@pytest.mark.parametrize("kind", [409, 412])
@pytest.mark.parametrize("step", ["create", "commit", "tag"])
def test_a_conflict_is_looked_into(hub: FakeHub, first: Publication, step: str, kind: int) -> None:
    hub.faults = [Fault(step, kind)]
    send(first)
    assert hub.faults[0].times == 0, "the fault was not met"
    check_published(hub, first)


def test_the_tag_is_on_the_commit_of_the_release_whatever_the_answer_names(
    hub: FakeHub, first: Publication, second: Publication
) -> None:
    for publication, before in ((first, ()), (second, (first.title,))):
        hub.faults = [Fault("commit", "parent")]
        send(publication)
        assert hub.faults[0].times == 0, "the fault was not met"
        check_published(hub, publication, *before)


UNSEEN = {"X-Error-Code": "RevisionNotFound"}


@pytest.mark.parametrize(("step", "skip"), [("tree", 1), ("tag", 0), ("tag", 1), ("commits", 1)])
def test_a_commit_that_not_all_of_the_hub_knows_yet_is_waited_for(
    hub: FakeHub, first: Publication, step: str, skip: int
) -> None:
    hub.faults = [Fault(step, 404, times=2, skip=skip, headers=UNSEEN)]
    send(first)
    assert hub.faults[0].times == 0, "the fault was not met"
    check_published(hub, first)


@pytest.mark.parametrize("step", ["tree", "tag"])
def test_a_rollback_waits_for_its_commit_to_be_known(
    hub: FakeHub, first: Publication, second: Publication, step: str
) -> None:
    send(first)
    send(second)
    hub.faults = [Fault(step, 404, skip=4 * (step == "tree"), headers=UNSEEN)]
    rollback(NAME, "1.0", TO, wait=10)
    assert hub.faults[0].times == 0, "the fault was not met"
    assert hub.titles(REPO)[-2:] == [second.title, "Roll back to chat 1.0"]
    assert hub.tree(REPO, "latest") == hub.tree(REPO) == hub.tree(REPO, "1.0")


@pytest.mark.parametrize("path", ["release.json", "data/train-00001-of-00003.parquet"])
def test_a_commit_that_would_lack_a_file_is_not_made(
    hub: FakeHub, first: Publication, path: str
) -> None:
    hub.ignored = (path,)
    with pytest.raises(UserError, match=f"the hub would leave {path} out of the commit") as error:
        send(first)
    assert ".gitignore" in str(error.value)
    assert hub.titles(REPO) == ["initial commit"]
    hub.ignored = ()
    send(first)
    check_published(hub, first)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("kind", ["cut after"])
def test_a_call_that_gave_up_is_finished_by_the_next(
    hub: FakeHub, first: Publication, step: str, kind: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.faults = [Fault(step, kind)]
    with monkeypatch.context() as impatient:
        impatient.setattr(waiting, "_FIRST_DELAY", 99.0)
        with pytest.raises(UserError, match="did not answer in time") as error:
            send(first)
    assert error.value.code is Exit.TRY_AGAIN
    send(first)
    check_published(hub, first)


def test_a_lost_answer_is_not_missed_when_others_committed_since(
    hub: FakeHub, first: Publication, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.faults = [Fault("commit", "cut after")]
    with monkeypatch.context() as impatient:
        impatient.setattr(waiting, "_FIRST_DELAY", 99.0)
        with pytest.raises(UserError):
            send(first)
    commit = hub.read(REPO)["branches"]["main"]
    hub.add_commit(REPO, "main", "Another's", hub.commit_of(REPO, "main")["tree"])
    send(first)
    assert hub.read(REPO)["tags"] == {"1.0": commit, "latest": commit}
    assert hub.titles(REPO) == ["initial commit", first.title, "Another's"]


def test_a_commit_of_another_between_look_and_commit_is_kept(
    hub: FakeHub, first: Publication
) -> None:
    def commit() -> None:
        tree = {**hub.commit_of(REPO, "main")["tree"], "notes.txt": hub.entry(b"x", lfs=False)}
        hub.add_commit(REPO, "main", "Another's", tree)

    hub.before_commit = commit
    send(first)
    check_published(hub, first, "Another's")
    assert "notes.txt" in hub.tree(REPO)


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("step", ["create", "preupload", "validate-yaml", "commit", "tag"])
def test_a_refusal_says_what_to_do_and_shows_no_token(
    hub: FakeHub, first: Publication, step: str, status: int
) -> None:
    hub.faults = [Fault(step, status)]
    with pytest.raises(UserError, match="refuses to let this account write") as error:
        send(first)
    assert error.value.code is Exit.MISTAKE
    assert "hf auth login" in str(error.value)
    assert TOKEN not in str(error.value)
    send(first)
    check_published(hub, first)


def test_a_server_that_asks_to_wait_is_waited_for(
    hub: FakeHub, first: Publication, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    hub.faults = [
        Fault("commit", 429, headers={"Retry-After": "7"}),
        Fault("refs", 429, headers={"RateLimit": '"api";r=0;t=9'}),
    ]
    with opened(TO, 30) as transport:
        transport.publish(first, True)
    check_published(hub, first)
    assert {7.0, 9.0} <= set(waits)


def test_a_server_that_asks_for_an_hour_is_left_at_once(hub: FakeHub, first: Publication) -> None:
    hub.faults = [Fault("preupload", 429, headers={"Retry-After": "3600"})]
    with pytest.raises(UserError, match="asks to wait 3600 s") as error:
        send(first)
    assert error.value.code is Exit.TRY_AGAIN


def test_a_server_that_never_recovers_is_waited_for_no_longer_than_said(
    hub: FakeHub, first: Publication
) -> None:
    hub.faults = [Fault("tree", 500, times=10**6)]
    with pytest.raises(UserError, match="status 500") as error:
        send(first, wait=0.5)
    assert error.value.code is Exit.TRY_AGAIN
    hub.faults.clear()
    send(first)
    check_published(hub, first)


@pytest.mark.parametrize("step", ["info", "put", "commit"])
def test_a_slow_answer_is_not_waited_for_without_end(
    hub: FakeHub, first: Publication, step: str
) -> None:
    hub.faults, hub.delay = [Fault(step, "slow")], 1.0
    with pytest.raises(UserError, match="did not answer in time") as error:
        send(first, wait=0.5)
    assert error.value.code is Exit.TRY_AGAIN
    send(first)
    check_published(hub, first)


def test_what_is_read_back_wrong_is_not_published(hub: FakeHub, first: Publication) -> None:
    hub.faults = [Fault("cdn", "flip", times=3)]
    with pytest.raises(UserError, match="not what was sent: data/train") as error:
        publish(first, TO, wait=10)
    assert error.value.code is Exit.TRY_AGAIN
    hub.faults.clear()
    publish(first, TO, wait=10)


@pytest.mark.parametrize("kind", ["half", "short"])
def test_a_download_that_breaks_off_is_taken_up_again(
    hub: FakeHub, first: Publication, kind: str
) -> None:
    hub.faults = [Fault("cdn", kind), Fault("resolve", 500, skip=2)]
    assert publish(first, TO, wait=20)[1] == 30


def test_a_card_that_leaves_a_shard_out_is_refused(hub: FakeHub, first: Publication) -> None:
    card = first.files["README.md"]
    card.write_text(card.read_text().replace("data/train-*", "data/train-00001-*"))
    with pytest.raises(UserError, match=r"no split of the data set has data/train-00000"):
        publish(first, TO, wait=10)


def test_an_invalid_card_is_refused(hub: FakeHub, first: Publication) -> None:
    first.files["README.md"].write_text("no metadata\n")
    with pytest.raises(UserError, match="does not accept") as error:
        send(first)
    assert "the card has no metadata" in str(error.value)
    assert hub.titles(REPO) == ["initial commit"]


def test_offline_mode_is_named(
    hub: FakeHub, first: Publication, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="offline mode"):
        send(first)


def test_random_faults_end_in_the_same_state(
    hub: FakeHub, first: Publication, second: Publication
) -> None:
    """Many faults at once, call after call, as on a bad day."""
    rng = random.Random(13)
    kinds: list[int | str] = [409, 412, 429, 500, "cut before", "cut after"]
    for publication in (first, second):
        for _ in range(12):
            steps = rng.choices([*STEPS, "untag"], k=8)
            hub.faults = [Fault(s, rng.choice(kinds), skip=rng.randrange(3)) for s in steps]
            with contextlib.suppress(UserError):
                send(publication, wait=0.4)
    hub.faults.clear()
    send(first)
    send(second)
    assert hub.titles(REPO) == ["initial commit", first.title, second.title]
    check_published(hub, second, first.title)


# Going back, erasing


def test_a_rollback_copies_the_tree_within_the_hub(
    hub: FakeHub, first: Publication, second: Publication
) -> None:
    send(first)
    send(second)
    puts = hub.count("put")
    outcome = rollback(NAME, "1.0", TO, wait=10)
    assert outcome.latest == "1.0"
    assert hub.tree(REPO) == hub.tree(REPO, "latest") == hub.tree(REPO, "1.0")
    assert hub.titles(REPO)[-1] == "Roll back to chat 1.0"
    assert hub.count("put") == puts
    assert not rollback(NAME, "1.0", TO, wait=10).is_new


def test_a_rollback_is_not_undone_by_publishing_again(
    hub: FakeHub, first: Publication, second: Publication, tmp_path: Path
) -> None:
    send(first)
    send(second)
    rollback(NAME, "1.0", TO, wait=10)
    state = hub.read(REPO)
    assert not send(second).is_new
    assert hub.read(REPO) == state
    third = toy_publication(tmp_path, "1.2", first=300)
    send(third)
    check_published(hub, third, first.title, second.title, "Roll back to chat 1.0")


@pytest.mark.parametrize("kind", [412, 500, "cut before", "cut after"])
@pytest.mark.parametrize("step", ["commit", "paths-info", "untag", "tag"])
def test_a_rollback_survives_faults(
    hub: FakeHub, first: Publication, second: Publication, step: str, kind: int | str
) -> None:
    send(first)
    send(second)
    hub.faults = [Fault(step, kind)]
    rollback(NAME, "1.0", TO, wait=10)
    assert hub.titles(REPO)[-2:] == [second.title, "Roll back to chat 1.0"]
    assert hub.tree(REPO, "latest") == hub.tree(REPO) == hub.tree(REPO, "1.0")


def test_a_rollback_to_what_is_not_there_names_what_is(hub: FakeHub, first: Publication) -> None:
    send(first)
    with pytest.raises(UserError, match=r"version 0\.9 is not published there") as error:
        rollback(NAME, "0.9", TO, wait=10)
    assert "it has 1.0" in str(error.value)


def test_latest_is_put_back_where_it_was_lost(hub: FakeHub, first: Publication) -> None:
    send(first)
    state = hub.read(REPO)
    del state["tags"]["latest"]
    hub.write(REPO, state)
    assert send(first).latest == "1.0"
    check_published(hub, first)


@pytest.mark.parametrize("fault", [None, *(
    Fault(step, kind)
    for step in ("lfs-files", "lfs-delete", "squash", "untag", "tag")
    for kind in (500, "cut after")
)], ids=str)  # fmt: skip
def test_an_erasure_leaves_nothing_of_the_version(
    hub: FakeHub,
    first: Publication,
    second: Publication,
    tmp_path: Path,
    fault: Fault | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    third = toy_publication(tmp_path, "1.2", first=300)
    for publication in (first, second, third):
        send(publication)
    if fault:
        hub.faults = [Fault(fault.step, fault.kind)]
        with monkeypatch.context() as impatient:
            impatient.setattr(waiting, "_FIRST_DELAY", 99.0)
            with pytest.raises(UserError):
                erase(["1.1"], TO, wait=10)
    assert erase(["1.1"], TO, wait=10).versions == ("1.1",)
    shards = [entry["sha256"] for path, entry in second.entries.items() if path.startswith("data")]
    assert not any(hub.blob(sha256).exists() for sha256 in shards)
    assert hub.titles(REPO) == [third.title]
    assert sorted(hub.read(REPO)["tags"]) == ["1.0", "1.2", "latest"]
    for publication in (first, third):
        tree = hub.tree(REPO, publication.version)
        assert {path: tree[path] for path in publication.files} == digests(publication)
        assert all(hub.blob(sha256).exists() for sha256 in tree.values())
    assert erase(["1.1"], TO, wait=10).versions == ()
    assert not send(third).is_new


def test_the_current_version_is_not_erased(hub: FakeHub, first: Publication) -> None:
    send(first)
    with pytest.raises(UserError, match=r"must not be the current one, got 1\.0"):
        erase(["1.0"], TO, wait=10)
    check_published(hub, first)


def test_a_hub_that_cannot_be_reached_means_later(
    hub: FakeHub, first: Publication, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="did not answer in time") as error:
        send(first, wait=0.5)
    assert error.value.code is Exit.TRY_AGAIN
