"""The command line as a person or a program uses it."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import polars as pl
import pytest

from pipeline.cli import tables
from pipeline.recipe.recipe import Recipe
from pipeline.stage import ROOT
from tests.support.running import artifact, called, environment, pool, run, timed, toys

TEXT = """\
name: cli
models: {m: {engine: transformers, model: nowhere, id: m1}}
stages:
  a: {uses: toy.load, with: {path: rows.txt}}
  sized: {uses: toy.length, needs: a}
  brief: {uses: toy.at_most, needs: sized, with: {maximum: 20}}
  new: {uses: toy.invent, needs: brief, with: {model: m, count: 4}}
  out: {uses: toy.export, needs: brief}
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A recipe and a store in which it has run: 40 rows, one that failed, one merged."""
    folder = tmp_path_factory.mktemp("cli")
    pool(folder / "rows.txt", 40)
    with (folder / "rows.txt").open("a") as file:
        file.write("question 3\txxx3\nno tab\n")
    (folder / "cli.yaml").write_text(toys(TEXT))
    run(Recipe.load(str(folder / "cli.yaml")), folder / "store")
    return str(folder / "cli.yaml"), str(folder / "store")


def ask(ran: tuple[str, str], verb: str, *more: str) -> subprocess.CompletedProcess[str]:
    done = called(verb, ran[0], *more, "--store", ran[1])
    assert "Traceback" not in done.stderr
    return done


def test_help_is_instant_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['pipeline', '--help']\n"
        "import runpy\n"
        "try: runpy.run_module('pipeline', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'polars', 'torch', 'numpy', 'pydantic', 'pyarrow', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    call = [sys.executable, "-c", code]
    done = subprocess.run(
        call, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for verb in ("run", "plan", "status", "why", "explain", "cat", "stages", "doctor"):
        assert verb in done.stdout
    assert min(timed("--help")[1] for _ in range(3)) < 0.5


def test_a_run_with_nothing_to_do_is_quick(ran: tuple[str, str]) -> None:
    done, seconds = timed("run", ran[0], "--store", ran[1])
    assert seconds < 2
    assert done.returncode == 4
    assert not re.search(r"^\[ *\d+/\d+\]", done.stderr, re.MULTILINE), "a stage ran again"
    assert done.stdout.startswith("stage")
    assert "some rows failed in: a" in done.stderr
    assert f"cat {ran[0]} a --failed" in done.stderr


def test_json_is_all_that_is_printed(ran: tuple[str, str]) -> None:
    status = json.loads(ask(ran, "status", "--json").stdout)
    assert {s["name"]: s["state"] for s in status["stages"]} == dict.fromkeys(
        ["a", "sized", "brief", "new", "out"], "cached"
    )
    assert status["stages"][0] | {"rows_in": 42, "kept": 40, "failed": 1} == status["stages"][0]
    changed = "stages.brief.with.maximum=9"
    plan = json.loads(ask(ran, "plan", "--json", "--set", changed).stdout)
    brief = plan["stages"][2]
    assert (brief["state"], brief["expected"]["rows"]) == ("stale", 40)
    assert brief["causes"] == ["option maximum: 20 -> 9"]
    assert plan["stages"][3]["expected"]["requests"] == 4, "what the last run needed"
    assert plan["total"]["expected"]["requests"] == 4
    why = json.loads(ask(ran, "why", "brief", "--json", "--set", changed).stdout)
    assert why["stages"][0]["causes"] == ["option maximum: 20 -> 9"]
    entry = artifact(Recipe.load(ran[0]), Path(ran[1]), "a").read("kept")["id"][0]
    assert json.loads(ask(ran, "explain", entry, "--json").stdout)["id"] == entry


def test_people_get_tables(ran: tuple[str, str]) -> None:
    assert "0 of 5 stages to run: nothing to do" in ask(ran, "plan").stdout
    assert "too_long" in ask(ran, "status").stdout
    assert "brief" in ask(ran, "why", "brief").stdout
    assert (
        "unknown until brief has run"
        in ask(ran, "plan", "out", "--set", "stages.brief.with.maximum=1").stdout
    )


def test_rows_are_printed_and_saved(ran: tuple[str, str], tmp_path: Path) -> None:
    printed = [json.loads(line) for line in ask(ran, "cat", "brief").stdout.splitlines()]
    assert {"id", "messages", "origins", "extra", "length"} <= set(printed[0])
    assert all(row["length"] <= 20 for row in printed)
    for name in ("rows.parquet", "rows.jsonl"):
        path = tmp_path / name
        done = ask(ran, "cat", "brief", "-o", str(path))
        assert (done.returncode, done.stdout) == (0, "")
        read = pl.read_parquet(path) if name.endswith("parquet") else pl.read_ndjson(path)
        assert read["id"].to_list() == [row["id"] for row in printed]
    (failed,) = map(json.loads, ask(ran, "cat", "a", "--failed").stdout.splitlines())
    assert failed == {"id": None, "file": "rows.txt", "line": 42, "error": "no tab in 'no tab'"}
    (merged,) = map(json.loads, ask(ran, "cat", "a", "--dropped").stdout.splitlines())
    assert merged["drop_reason"] == "duplicate"
    dropped = [json.loads(row) for row in ask(ran, "cat", "brief", "--dropped").stdout.splitlines()]
    assert dropped
    for row in dropped:
        assert row.keys() == {*printed[0], "drop_reason", "evidence"}, "all columns of the input"


@pytest.mark.parametrize("part", [[], ["--dropped"], ["--failed"]])
def test_no_rows_are_saved_with_their_columns(
    ran: tuple[str, str], tmp_path: Path, part: list[str]
) -> None:
    """Nothing is kept of one, nothing dropped or failed in another; the schema is the same."""
    nothing = ["--set", "stages.brief.with.maximum=0"]
    assert ask(ran, "run", "brief", *nothing).returncode == 4
    stages = {"brief": nothing} if not part else {"sized": [], "new": []}
    for stage, options in stages.items():
        for name in ("rows.parquet", "rows.jsonl"):
            done = ask(ran, "cat", stage, *part, *options, "-o", str(tmp_path / name))
            assert done.returncode == 0, done.stderr
        assert (tmp_path / "rows.jsonl").read_text() == "" or stage == "new"
        columns = set(pl.read_parquet(tmp_path / "rows.parquet").columns)
        if part == ["--failed"]:
            assert columns == {"id", "file", "line", "error"}
        else:
            assert {"id", "messages", "origins", "extra"} <= columns
            assert ("length" if stage != "new" else "score") in columns
            assert ({"drop_reason", "evidence"} <= columns) == bool(part)
    assert ask(ran, "run").returncode == 4


def test_a_run_says_what_ran_and_what_was_cached(ran: tuple[str, str]) -> None:
    changed = ["--set", "stages.brief.with.maximum=11"]
    first = ask(ran, "run", "brief", *changed).stdout.splitlines()
    ends = {line.split()[0]: line.split()[-1] for line in first if not line.startswith(" ")}
    assert [ends[name] for name in ("a", "sized", "brief")] == ["cached", "cached", "ran"]
    assert "cached" in ask(ran, "run", "brief", *changed).stdout.splitlines()[-2]
    assert ask(ran, "run").returncode == 4


def test_tables_fit_the_terminal(ran: tuple[str, str]) -> None:
    for columns in ("80", "60"):
        for verb, more in (("plan", []), ("plan", ["--store", "/tmp/none-there"]), ("status", [])):
            done = called(verb, ran[0], "--store", ran[1], *more, COLUMNS=columns)
            table = done.stdout.split("\n\n")[0]
            assert max(map(len, table.splitlines())) <= int(columns), table
    wide = called("plan", ran[0], "--store", "/tmp/none-there", COLUMNS="200").stdout
    assert "tests.support.toys.load" in wide


def test_a_dropped_row_is_shown_with_the_row_that_it_equals(
    ran: tuple[str, str], tmp_path: Path
) -> None:
    (tmp_path / "rows.txt").write_text("one\tthe same\ntwo\tthe same\n")
    text = TEXT.split("  sized")[0] + "  unique: {uses: toy.distinct, needs: a}\n"
    (tmp_path / "equal.yaml").write_text(toys(text))
    call = str(tmp_path / "equal.yaml"), str(tmp_path / "store")
    run(Recipe.load(call[0]), Path(call[1]))
    (dropped,) = map(json.loads, ask(call, "cat", "unique", "--dropped").stdout.splitlines())
    kept = json.loads(dropped["evidence"])["duplicate_of"]
    other = {"one": "two", "two": "one"}[dropped["messages"][0]["content"]]
    explained = ask(call, "explain", dropped["id"]).stdout
    assert f"  {kept}: user: {other} assistant: the same" in explained
    history = json.loads(ask(call, "explain", dropped["id"], "--json").stdout)["history"]
    assert history[-1]["named"] == {kept: f"user: {other}\nassistant: the same"}


def test_code_drift_is_said_by_status(ran: tuple[str, str], tmp_path: Path) -> None:
    shutil.copytree(ran[1], tmp_path / "store")
    for path in (tmp_path / "store/code").iterdir():
        if "at_most" in path.name:
            path.write_text('"other"')
    done = ask((ran[0], str(tmp_path / "store")), "status")
    assert "the code of tests.support.toys.at_most changed under the same" in done.stdout
    entries = json.loads(ask((ran[0], str(tmp_path / "store")), "status", "--json").stdout)[
        "stages"
    ]
    assert [e["drifted"] for e in entries] == [False, False, True, False, False]


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (["brief", "-o", "x.xls"], ".jsonl, .csv or .xlsx, got 'x.xls'"),
        (["brief", "-o", "/proc/none/x.parquet"], "cannot be written"),
        (["brief", "-o", "/proc/none/x.jsonl"], "cannot be written"),
        (["breif"], "the recipe has no stage 'breif'"),
        (["out"], "gives files, not rows"),
        (["brief", "--dropped", "--failed"], "exclude each other"),
    ],
)
def test_mistakes_with_cat(ran: tuple[str, str], more: list[str], what: str) -> None:
    done = ask(ran, "cat", *more)
    assert done.returncode == 2
    assert what in done.stderr
    assert done.stdout == ""


def test_hints_repeat_profile_overrides_and_store(ran: tuple[str, str], tmp_path: Path) -> None:
    changed = tmp_path / "cli.yaml"
    text = Path(ran[0]).read_text().replace("rows.txt", str(Path(ran[0]).parent / "rows.txt"))
    changed.write_text(text + "profiles: {brief: {stages.brief.with.maximum: 9}}\n")
    options = ["--profile", "brief", "--set", "stages.a.with.source=b c"]
    options += ["--store", str(tmp_path / "x y")]
    failed = called("cat", str(changed), "brief", *options)
    assert failed.returncode == 2
    quoted = f"--profile brief --set 'stages.a.with.source=b c' --store '{tmp_path / 'x y'}'"
    assert f"try: python -m pipeline run {changed} brief {quoted}\n" in failed.stderr
    planned = called("plan", str(changed), "brief", *options, "--json")
    assert json.loads(planned.stdout)["stages"][0]["name"] == "a"
    unknown = called("status", str(changed), "--profile", "breif")
    assert (unknown.returncode, "did you mean 'brief'?" in unknown.stderr) == (2, True)


HELP = ["", "run", "plan", "status", "why", "explain", "cat", "stages", "doctor", "journal"]
HELP += [f"journal {verb}" for verb in ("stats", "verify", "export", "import")]


@pytest.mark.parametrize("verb", HELP)
def test_help_is_complete(verb: str) -> None:
    text = called(*verb.split(), "--help").stdout
    usage = text.split("\n\n")[0]
    assert "[[" not in usage
    assert "..." not in called(*verb.split(), "--help", COLUMNS="50").stdout.split("Options:")[1]
    assert not re.search(r"<(?!str>|list\[str\]>|path>)|\w\.\.\.$", text, re.MULTILINE), (
        "cut or bare"
    )
    for option, metavar in (("--store", "DIR"), ("--set", "PATH=VALUE"), ("--workers", "N")):
        assert option not in text or f"{option} {metavar} " in text
    if verb in HELP[1:7]:
        assert "--profile NAME" in text


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert called("--version").stdout == f"gristmill {project['version']}\n"


def test_the_launcher_works_from_any_folder(ran: tuple[str, str], tmp_path: Path) -> None:
    launcher = tmp_path / "bin of mine" / "gristmill"
    launcher.parent.mkdir()
    call = [sys.executable, "-m", "pipeline.cli.launcher", str(launcher)]
    subprocess.run(call, cwd=ROOT, check=True)
    (tmp_path / "pipeline").mkdir()  # not to be taken for ours
    (tmp_path / "cli.yaml").write_text(Path(ran[0]).read_text())
    pool(tmp_path / "rows.txt", 5)

    def started(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        return subprocess.run(
            [launcher, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    assert started("--help").stdout.startswith("Usage: gristmill [OPTIONS]")
    before = started("cat", "cli.yaml", "brief", "--store", "store")
    assert before.stderr.endswith("try: gristmill run cli.yaml brief --store store\n")
    done = started("run", "cli.yaml", "brief", "--store", "store", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "store/artifacts").is_dir()
    assert started("cat", "cli.yaml", "brief", "--store", "store", "-o", "rows.jsonl").stderr == ""
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 5
    assert "data/artifacts" in started("doctor").stdout
    assert not (tmp_path / "data").exists()
    wrong = started("stages", "nowhere")
    assert "gristmill stages lists them all" in wrong.stderr


def test_branches_that_agree_on_a_record_both_say_so() -> None:
    verdict = {"verdict": "dropped", "cluster": 3, "drop_reason": "not_selected"}
    record = {
        "id": "x",
        "history": [{"stage": name, "uses": "toy", **verdict} for name in ("b", "c")],
    }
    paragraphs = tables.record_history(record).split("\n\n")
    assert len(paragraphs) == 3
    for paragraph in paragraphs[1:]:
        assert "  cluster: 3\n  drop_reason: not_selected" in paragraph


def test_the_way_of_a_record(ran: tuple[str, str]) -> None:
    wired, store = Recipe.load(ran[0]), Path(ran[1])
    dropped = artifact(wired, store, "brief").read("dropped")["id"][0]
    text = ask(ran, "explain", dropped[:12]).stdout
    assert text.startswith(f"record {dropped}")
    order = [text.index(part) for part in ("a (tests", "sized (tests", "brief (tests")]
    assert order == sorted(order)
    assert "verdict" not in text
    assert "drop_reason: too_long" in text
    assert "CC0-1.0" in text
    ids = artifact(wired, store, "a").read("kept")["id"].to_list()
    shared = next(a[:1] for a, b in itertools.pairwise(ids) if a[0] == b[0])
    ambiguous = ask(ran, "explain", shared)
    assert ambiguous.returncode == 2
    assert "give more digits" in ambiguous.stderr
    absent = ask(ran, "explain", "zz")
    assert absent.returncode == 2
    assert "no row of cli has an id that begins with 'zz'" in absent.stderr


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["run", "nowhere.yaml"], "there is no recipe 'nowhere.yaml'"),
        (["run", "README.md"], "error: "),
        (["run", "/"], "there is no recipe '/'"),
        (["run", "RECIPE", "gone"], "the recipe has no stage 'gone'"),
        (["run", "RECIPE", "--set", "x"], "must be of the form PATH=VALUE"),
        (["why", "RECIPE", "gone"], "the recipe has no stage 'gone'"),
        (
            ["cat", "RECIPE", "brief", "--store", "/tmp/none-there"],
            "brief has not run yet in the store /tmp/none-there",
        ),
        (["stages", "score.los"], "did you mean 'score.loss'"),
        (["nothing"], "No such command"),
        (["run"], "Missing argument"),
        (["run", "RECIPE", "--workers", "many"], "Invalid value"),
    ],
)
def test_mistakes_end_with_two_and_no_traceback(
    ran: tuple[str, str], arguments: list[str], what: str
) -> None:
    done = called(*[ran[0] if a == "RECIPE" else a for a in arguments])
    assert done.returncode == 2
    assert what in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bug_keeps_its_traceback(ran: tuple[str, str], tmp_path: Path) -> None:
    pool(tmp_path / "rows.txt", 3)
    crash = "  z: {uses: toy.crash, needs: a}\n"
    (tmp_path / "r.yaml").write_text(toys(TEXT + crash))
    done = called("run", str(tmp_path / "r.yaml"), "z", "--store", str(tmp_path / "store"))
    assert done.returncode == 1
    assert "ZeroDivisionError: a bug of the stage" in done.stderr
    assert not list((tmp_path / "store/artifacts").glob(".*"))


def test_the_stages_document_themselves() -> None:
    done = called("stages")
    assert done.returncode == 0
    for name in ("load.records", "score.loss", "dedup.minhash", "select.random"):
        assert name in done.stdout
    family = called("stages", "select").stdout
    assert "select.random" in family
    assert "score.loss" not in family
    listed = json.loads(called("stages", "select", "--json").stdout)
    assert {e["name"].split(".")[0] for e in listed} == {"select"}
    page = called("stages", "select.random").stdout
    for part in ("seed: integer", "(default 0)", "rows: records", "version 2"):
        assert part in page
    (entry,) = json.loads(called("stages", "load.records", "--json").stdout)
    assert entry["options"]["path"]["type"] == "path, list or glob"


def test_a_reader_that_goes_away_is_no_error(ran: tuple[str, str]) -> None:
    call = f"{sys.executable} -m pipeline cat {ran[0]} a --store {ran[1]} | head -c 10; "
    shell = ["bash", "-c", call + "echo ${PIPESTATUS[0]} >&2"]
    done = subprocess.run(
        shell, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.stderr == "0\n"


def test_the_doctor_tells_what_is_there(tmp_path: Path) -> None:
    done = called("doctor", "--store", str(tmp_path / "store"))
    assert done.returncode == 0, done.stdout
    assert "polars" in done.stdout
    assert "quickstart.yaml" in done.stdout
    assert not (tmp_path / "store").exists()
