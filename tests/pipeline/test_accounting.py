"""Every row that entered ends as kept, dropped or failed, whatever the kind of stage."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import Exit, UserError
from pipeline.execution.snapshot import Snapshot
from pipeline.store.store import Store
from tests.support.running import artifact, contents, counts, pool, recipe, run, states


def test_each_kind_of_stage_accounts_for_its_rows(tmp_path: Path) -> None:
    pool(tmp_path / "a", 40)
    extra = "question 0\t0\nquestion 0\t0\nno tab here\nq\t0\nq\tunreadable\n"
    (tmp_path / "b").write_text(extra)
    wired = recipe(
        {
            "a": {"uses": "toy.load", "with": {"path": str(tmp_path / "a"), "source": "a"}},
            "b": {"uses": "toy.load", "with": {"path": str(tmp_path / "b"), "source": "b"}},
            "new": {"uses": "toy.invent", "needs": "a", "with": {"model": "toy", "count": 6}},
            "all": {"uses": "toy.merge", "needs": ["a", "b", "new"]},
            "sized": {"uses": "toy.length", "needs": "all"},
            "brief": {"uses": "toy.at_most", "needs": "sized", "with": {"maximum": 20}},
            "unique": {"uses": "toy.distinct", "needs": "brief"},
            "out": {"uses": "toy.export", "needs": "unique"},
        }
    )
    assert run(wired, tmp_path / "store") is Exit.ROWS_FAILED
    by_step = counts(wired, tmp_path / "store")
    assert by_step["a"] == (40, 0, 40, {}, 0)
    assert by_step["b"] == (5, 0, 3, {"duplicate": 1}, 1)
    assert by_step["new"] == (0, 6, 4, {"copy": 2}, 0)
    assert by_step["all"] == (47, 0, 46, {"duplicate": 1}, 0)
    assert by_step["sized"] == (46, 0, 45, {}, 1)
    read, _, kept, dropped, _ = by_step["brief"]
    assert read == 45
    assert 0 < dropped["too_long"] < 45
    assert by_step["unique"] == (kept, 0, kept - 1, {"duplicate": 1}, 0)
    assert by_step["out"] == (0, 0, 0, {}, 0)
    answers = artifact(wired, tmp_path / "store", "out").files / "answers.txt"
    assert len(answers.read_text().splitlines()) == kept - 1


def test_dropped_and_failed_rows_can_be_read_with_their_reasons(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("q\tlong answer\nq\tshort\nbroken\nr\tunreadable\nq\tshort\n")
    wired = recipe(
        {
            "a": {"uses": "toy.load", "with": {"path": str(tmp_path / "a")}},
            "sized": {"uses": "toy.length", "needs": "a"},
            "brief": {"uses": "toy.at_most", "needs": "sized", "with": {"maximum": 5}},
        }
    )
    run(wired, tmp_path / "store")
    store = Store(tmp_path / "store")
    failed = Snapshot.of_recipe(wired, store).rows("a", "failed")
    assert failed.columns == ["id", "file", "line", "error"]
    assert failed.rows() == [(None, "a", 3, "no tab in 'broken'")]
    (unread,) = Snapshot.of_recipe(wired, store).rows("sized", "failed").to_dicts()
    assert unread["error"] == "cannot be read"
    assert unread["id"] in artifact(wired, store.root, "a").read("kept", ["id"])["id"]
    (merged,) = Snapshot.of_recipe(wired, store).rows("a", "dropped").to_dicts()
    assert merged["evidence"] == f'{{"id": "{merged["id"]}", "kept": 1, "dropped": 4}}'
    (dropped,) = Snapshot.of_recipe(wired, store).rows("brief", "dropped").to_dicts()
    assert set(dropped) >= {"id", "messages", "extra", "drop_reason", "evidence"}
    assert dropped["messages"][1]["content"] == "long answer"
    assert (dropped["drop_reason"], dropped["evidence"]) == ("too_long", '{"length":11}')
    (kept,) = Snapshot.of_recipe(wired, store).rows("brief", "kept").to_dicts()
    assert kept["messages"][1]["content"] == "short"
    assert kept["length"] == 5
    assert [o["index"] for o in kept["origins"]] == [1]


def test_an_artifact_holds_only_what_its_stage_added(tmp_path: Path) -> None:
    pool(tmp_path / "a", 3)
    wired = recipe(
        {
            "a": {"uses": "toy.load", "with": {"path": str(tmp_path / "a")}},
            "sized": {"uses": "toy.length", "needs": "a"},
        }
    )
    run(wired, tmp_path / "store")
    assert artifact(wired, tmp_path / "store", "sized").columns("kept") == ["id", "length"]


def test_a_stage_without_rows_passes_on_none(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    steps = {
        "a": {"uses": "toy.load", "with": {"path": str(tmp_path / "a")}},
        "sized": {"uses": "toy.length", "needs": "a"},
        "brief": {"uses": "toy.at_most", "needs": "sized", "with": {"maximum": 5}},
        "unique": {"uses": "toy.distinct", "needs": "brief"},
        "all": {"uses": "toy.merge", "needs": ["a", "unique"]},
        "new": {"uses": "toy.invent", "needs": "all", "with": {"model": "toy", "count": 5}},
        "out": {"uses": "toy.export", "needs": "new"},
    }
    wired = recipe(steps)
    assert run(wired, tmp_path / "store") is Exit.DONE
    by_step = counts(wired, tmp_path / "store")
    assert {name: c[:3] for name, c in by_step.items()} == dict.fromkeys(steps, (0, 0, 0))
    unique = Snapshot.of_recipe(wired, Store(tmp_path / "store")).rows("unique", "kept")
    assert unique.columns[-2:] == ["length", "rank"]
    assert set(states(wired, tmp_path / "store").values()) == {"cached"}


@pytest.mark.parametrize(
    ("uses", "message"),
    [
        ("toy.short", "must return one row for each of the 32 input rows, got 31"),
        ("toy.silent", "must return a polars DataFrame, got NoneType"),
        ("toy.undeclared", "but declares no such"),
        ("toy.mistyped", "of another type"),
        ("toy.twice", "must keep unique ids, got a null or a repeated id"),
    ],
)
def test_a_broken_contract_is_refused(tmp_path: Path, uses: str, message: str) -> None:
    pool(tmp_path / "a", 100)
    wired = recipe(
        {
            "a": {"uses": "toy.load", "with": {"path": str(tmp_path / "a")}},
            "b": {"uses": uses, "needs": "a"},
        }
    )
    with pytest.raises(UserError, match=message):
        run(wired, tmp_path / "store")
    assert states(wired, tmp_path / "store") == {"a": "cached", "b": "missing"}
    assert not list((tmp_path / "store/artifacts").glob(".*"))


def test_failed_rows_are_retried_where_a_model_is_involved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool(tmp_path / "a", 60)
    steps = {
        "a": {"uses": "toy.load", "with": {"path": str(tmp_path / "a")}},
        "judged": {"uses": "toy.judge", "needs": "a", "with": {"model": "toy"}},
        "brief": {
            "uses": "toy.at_most",
            "needs": "judged",
            "with": {"maximum": 2, "column": "quality"},
        },
    }
    wired, store = recipe(steps), tmp_path / "store"
    outage = tmp_path / "outage"
    outage.write_text("x7 x8")
    monkeypatch.setenv("TOY_OUTAGE", str(outage))
    assert run(wired, store) is Exit.ROWS_FAILED
    first = artifact(wired, store, "judged").manifest
    lost = first["counts"]["failed"]
    assert 0 < lost < 60
    assert first["incomplete"]
    assert states(wired, store) == {"a": "cached", "judged": "incomplete", "brief": "unknown"}
    outage.write_text("x8")
    assert run(wired, store) is Exit.ROWS_FAILED
    assert artifact(wired, store, "judged").manifest["computed"] == lost
    assert artifact(wired, store, "judged").manifest["used"] == {"requests": lost}
    outage.unlink()
    left = artifact(wired, store, "judged").manifest["counts"]["failed"]
    assert run(wired, store) is Exit.DONE
    last = artifact(wired, store, "judged").manifest
    assert last["fingerprint"] == first["fingerprint"]
    assert last["computed"] == left
    assert not last["incomplete"]
    undisturbed = tmp_path / "undisturbed"
    run(wired, undisturbed)
    assert contents(undisturbed, wired) == contents(store, wired)


def test_a_generator_asks_again_only_for_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool(tmp_path / "a", 3)
    wired, store = (
        recipe(
            {
                "a": {"uses": "toy.load", "with": {"path": str(tmp_path / "a")}},
                "new": {"uses": "toy.invent", "needs": "a", "with": {"model": "toy", "count": 9}},
            }
        ),
        tmp_path / "store",
    )
    outage = tmp_path / "outage"
    outage.write_text("4")
    monkeypatch.setenv("TOY_OUTAGE", str(outage))
    assert run(wired, store) is Exit.ROWS_FAILED
    assert counts(wired, store)["new"] == (0, 9, 5, {"copy": 3}, 1)
    outage.unlink()
    assert run(wired, store) is Exit.DONE
    assert counts(wired, store)["new"] == (0, 9, 6, {"copy": 3}, 0)


def test_unreadable_input_is_not_retried_but_stays_reported(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("q\tunreadable\nbroken\nq\tfine\n")
    wired, store = (
        recipe(
            {
                "a": {"uses": "toy.load", "with": {"path": str(tmp_path / "a")}},
                "sized": {"uses": "toy.length", "needs": "a"},
            }
        ),
        tmp_path / "store",
    )
    assert run(wired, store) is Exit.ROWS_FAILED
    before = contents(store, wired)
    finished = artifact(wired, store, "a").folder.stat().st_mtime_ns
    assert states(wired, store) == {"a": "cached", "sized": "cached"}
    assert run(wired, store) is Exit.ROWS_FAILED
    assert artifact(wired, store, "a").folder.stat().st_mtime_ns == finished
    assert contents(store, wired) == before
    (tmp_path / "a").write_text("q\tfine\n")
    assert run(wired, store) is Exit.DONE
