"""Code that changed under the same version is told, and a person decides."""

from __future__ import annotations

import importlib
import itertools
import sys
from pathlib import Path

import polars as pl
import pytest

from pipeline.errors import Exit, UserError
from pipeline.execution import history
from pipeline.recipe.recipe import Recipe
from pipeline.store.store import Store
from tests.support.running import artifact, command, looks, pool, run, states, toys

CODE = '''\
"""A stage of a user's own."""
import polars as pl
from pipeline.context import Context
from pipeline.stage import Records, stage

@stage(version={version}, scope="row", reads=["messages"], adds={{"n": pl.Int64}})
def {name}(ctx: Context, rows: Records) -> pl.DataFrame:
    """{doc}"""
    # {comment}
    return rows.select(pl.col("messages").list.len().cast(pl.Int64).alias("n") + {plus})
'''
NUMBERS = itertools.count()


class Own:
    """A recipe beside a module with a stage, which can be written anew."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, f"own_stage_{next(NUMBERS)}"
        self.store = folder / "store"
        pool(folder / "rows.txt", 10)
        (folder / "own.yaml").write_text(
            toys(
                "name: own\nstages:\n  a: {uses: toy.load, with: {path: rows.txt}}\n"
                f"  n: {{uses: {self.name}, needs: a}}\n"
            )
        )

    def write(
        self, version: int = 1, doc: str = "a", comment: str = "b", plus: object = 0
    ) -> Recipe:
        text = CODE.format(name=self.name, version=version, doc=doc, comment=comment, plus=plus)
        (self.folder / f"{self.name}.py").write_text(text)
        sys.modules.pop(self.name, None)
        importlib.invalidate_caches()
        return Recipe.load(str(self.folder / "own.yaml"))


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Own:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return Own(tmp_path)


def test_changed_code_is_told_by_plan_and_refused_by_run(own: Own) -> None:
    assert run(own.write(), own.store) is Exit.DONE
    changed = own.write(plus=1)
    assert looks(changed, own.store)["n"].drifted
    assert not looks(changed, own.store)["a"].drifted
    with pytest.raises(UserError, match="the code of own_stage_") as caught:
        run(changed, own.store)
    assert caught.value.code is Exit.DRIFT
    assert "raise version= in @stage, or --accept-code" in str(caught.value)
    assert run(changed, own.store, "a") is Exit.DONE, "a drifted stage that is not asked for"
    told = command("plan", str(own.folder / "own.yaml"), "--store", str(own.store))
    assert "warning: the code of own_stage_" in told.stdout
    told = command("run", str(own.folder / "own.yaml"), "--store", str(own.store))
    assert (told.returncode, "Traceback" in told.stderr) == (3, False)


def test_accepted_code_goes_on_with_what_is_stored(own: Own) -> None:
    wired = own.write()
    run(wired, own.store)
    before = artifact(wired, own.store, "n").folder.stat().st_mtime_ns
    changed = own.write(plus=1)
    assert run(changed, own.store, accept=True) is Exit.DONE
    assert artifact(wired, own.store, "n").folder.stat().st_mtime_ns == before
    assert run(changed, own.store) is Exit.DONE, "accepted once for all"
    with pytest.raises(UserError, match="changed, but its version did not"):
        run(own.write(plus=2), own.store)


def test_a_raised_version_recomputes(own: Own) -> None:
    run(own.write(), own.store)
    raised = own.write(version=2, plus=5)
    look = looks(raised, own.store)["n"]
    assert (look.state, look.drifted, look.causes) == ("stale", False, ["version: 1 -> 2"])
    assert run(raised, own.store) is Exit.DONE
    assert history.rows(raised, Store(own.store), "n", "kept")["n"].unique().to_list() == [7]


def test_comments_docstrings_and_layout_do_not_count(own: Own) -> None:
    run(own.write(), own.store)
    same = own.write(doc="Another docstring", comment="another comment")
    path = own.folder / f"{own.name}.py"
    path.write_text(path.read_text().replace("rows.select(", "rows.select(\n        "))
    assert states(same, own.store) == {"a": "cached", "n": "cached"}
    assert not looks(same, own.store)["n"].drifted


def test_a_stage_that_never_ran_has_no_drift(own: Own) -> None:
    run(own.write(), own.store, "a")
    assert run(own.write(plus=3), own.store) is Exit.DONE


def test_a_stage_whose_first_runs_failed_may_be_mended(own: Own) -> None:
    broken = own.write(plus="'no number'")
    with pytest.raises(pl.exceptions.PolarsError):
        run(broken, own.store)
    assert run(own.write(), own.store) is Exit.DONE
    with pytest.raises(UserError, match="changed, but its version did not"):
        run(own.write(plus=2), own.store)


def test_a_stage_that_failed_half_way_has_left_results_of_its_code(own: Own) -> None:
    pool(own.folder / "rows.txt", 100)
    broken = own.write(plus="(1 if len(rows) == 32 and rows['id'][0] < '2' else 'no')")
    with pytest.raises(pl.exceptions.PolarsError):
        run(broken, own.store)
    with pytest.raises(UserError, match="changed, but its version did not"):
        run(own.write(), own.store)
