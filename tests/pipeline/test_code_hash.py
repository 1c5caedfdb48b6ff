"""Code that changed under the same version is refused, and a person decides."""

from __future__ import annotations

import importlib
import itertools
import sys
from pathlib import Path

import polars as pl
import pytest

from pipeline.errors import Exit, UserError
from pipeline.execution.snapshot import Snapshot
from pipeline.recipe.code_hash import code_hash
from pipeline.recipe.discovery import find
from pipeline.recipe.recipe import Recipe
from pipeline.store.store import Store
from tests.support.running import (
    artifact,
    called,
    command,
    planned_steps,
    pool,
    run,
    states,
    toys,
)

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


def test_changed_code_is_reported_by_plan_and_refused_by_run(own: Own) -> None:
    assert run(own.write(), own.store) is Exit.DONE
    changed = own.write(plus=1)
    assert planned_steps(changed, own.store)["n"].drifted
    assert not planned_steps(changed, own.store)["a"].drifted
    with pytest.raises(UserError, match="the code of own_stage_") as caught:
        run(changed, own.store)
    assert caught.value.code is Exit.DRIFT
    assert "the stage itself, or a module that it imports" in str(caught.value)
    assert "raise version= in @stage to compute them again" in str(caught.value)
    assert "reuse what is there: " in str(caught.value)
    assert "--accept-code" in str(caught.value)
    assert run(changed, own.store, "a") is Exit.DONE, "a drifted stage that is not asked for"
    done = called("plan", str(own.folder / "own.yaml"), "--store", str(own.store))
    assert "warning: the code of own_stage_" in done.stdout
    done = command("run", str(own.folder / "own.yaml"), "--store", str(own.store))
    assert (done.returncode, "Traceback" in done.stderr) == (3, False)


def test_accepted_code_goes_on_with_what_is_stored(own: Own) -> None:
    wired = own.write()
    run(wired, own.store)
    before = artifact(wired, own.store, "n").folder.stat().st_mtime_ns
    changed = own.write(plus=1)
    assert run(changed, own.store, accept=True) is Exit.DONE
    assert artifact(wired, own.store, "n").folder.stat().st_mtime_ns == before
    assert run(changed, own.store) is Exit.DONE, "accepted once for all"
    with pytest.raises(UserError, match="changed under the same version"):
        run(own.write(plus=2), own.store)


def test_a_raised_version_recomputes(own: Own) -> None:
    run(own.write(), own.store)
    raised = own.write(version=2, plus=5)
    planned = planned_steps(raised, own.store)["n"]
    assert (planned.state, planned.drifted, planned.causes) == ("stale", False, ["version: 1 -> 2"])
    assert run(raised, own.store) is Exit.DONE
    assert Snapshot.of_recipe(raised, Store(own.store)).rows("n", "kept")[
        "n"
    ].unique().to_list() == [7]


def test_comments_docstrings_and_layout_do_not_count(own: Own) -> None:
    run(own.write(), own.store)
    same = own.write(doc="Another docstring", comment="another comment")
    path = own.folder / f"{own.name}.py"
    path.write_text(path.read_text().replace("rows.select(", "rows.select(\n        "))
    assert states(same, own.store) == {"a": "cached", "n": "cached"}
    assert not planned_steps(same, own.store)["n"].drifted


def test_a_stage_that_never_ran_has_no_drift(own: Own) -> None:
    run(own.write(), own.store, "a")
    assert run(own.write(plus=3), own.store) is Exit.DONE


def test_a_stage_whose_first_runs_failed_may_be_fixed(own: Own) -> None:
    broken = own.write(plus="'no number'")
    with pytest.raises(pl.exceptions.PolarsError):
        run(broken, own.store)
    assert run(own.write(), own.store) is Exit.DONE
    with pytest.raises(UserError, match="changed under the same version"):
        run(own.write(plus=2), own.store)


def test_a_stage_that_failed_half_way_has_left_results_of_its_code(own: Own) -> None:
    pool(own.folder / "rows.txt", 100)
    broken = own.write(plus="(1 if len(rows) == 32 and rows['id'][0] < '2' else 'no')")
    with pytest.raises(pl.exceptions.PolarsError):
        run(broken, own.store)
    with pytest.raises(UserError, match="changed under the same version"):
        run(own.write(), own.store)


def test_an_edit_while_the_process_runs_is_not_the_code_that_runs(own: Own) -> None:
    wired = own.write()
    planned_steps(wired, own.store)
    path = own.folder / f"{own.name}.py"
    path.write_text(path.read_text().replace("+ 0", "+ 1"))
    run(wired, own.store)
    assert planned_steps(own.write(plus=1), own.store)["n"].drifted, "the old code ran"


def test_odd_modules_and_strings_break_no_hash(own: Own) -> None:
    """A helper that cannot be parsed, one behind a link, and a string too long for a file name."""
    own.write()
    path = own.folder / f"{own.name}.py"
    imports = "try:\n    import unreadable\nexcept SyntaxError:\n    pass\nimport linked\n"
    path.write_text(f"{imports}TEXT = {'語。.' * 60!r}\n{path.read_text()}")
    (own.folder / "unreadable.py").write_text("def (:\n")
    (own.folder / "elsewhere").mkdir()
    (own.folder / "elsewhere/target.py").write_text("x = 1\n")
    (own.folder / "linked.py").symlink_to(own.folder / "elsewhere/target.py")
    sys.modules.pop(own.name, None)
    importlib.invalidate_caches()
    before = code_hash(find(own.name))
    (own.folder / "elsewhere/target.py").write_text("x = 2\n")
    sys.modules.pop(own.name)
    assert code_hash(find(own.name)) != before


def test_an_artifact_without_a_column_that_its_stage_adds_is_computed_again(own: Own) -> None:
    wired = own.write()
    run(wired, own.store)
    path = own.folder / f"{own.name}.py"
    text = path.read_text().replace('"n"', '"m"').replace('scope="row"', 'scope="set"')
    path.write_text(text)
    sys.modules.pop(own.name)
    renamed = Recipe.load(str(own.folder / "own.yaml"))
    planned = planned_steps(renamed, own.store)["n"]
    assert (planned.state, planned.drifted) == ("stale", True)
    assert planned.causes == ["its artifact lacks the column 'm' that the stage now adds"]
    assert Snapshot.of_recipe(renamed, Store(own.store)).rows("n", "kept").columns[-1] == "n"
    assert run(renamed, own.store, accept=True) is Exit.DONE
    assert Snapshot.of_recipe(renamed, Store(own.store)).rows("n", "kept").columns[-1] == "m"


def test_cached_rows_with_other_columns_are_refused(own: Own) -> None:
    run(own.write(), own.store)
    path = own.folder / f"{own.name}.py"
    path.write_text(path.read_text().replace('"n"', '"m"'))
    sys.modules.pop(own.name)
    renamed = Recipe.load(str(own.folder / "own.yaml"))
    with pytest.raises(UserError, match="have other columns than it gives now") as caught:
        run(renamed, own.store, accept=True)
    assert "raise version= in @stage" in str(caught.value)
