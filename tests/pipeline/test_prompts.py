"""Prompts of a recipe's own: what they change, what they may use, and what is refused."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.context import Context
from pipeline.errors import RecipeErrors, UserError
from pipeline.execution.backends import RemoteStage
from pipeline.execution.count_requests import _CountingContext
from pipeline.models.counting import counting
from pipeline.models.engines.registry import close_engines
from pipeline.prompts import Replacement, replaced
from pipeline.recipe.code_hash import code_hash, prompt_digests, used_prompts
from pipeline.recipe.discovery import available, find
from pipeline.recipe.prompts import prompt_key, prompt_notes, prompts_of, read_prompts
from pipeline.recipe.recipe import Recipe
from pipeline.stage import ROOT
from stages._llm.prompts import Prompts
from stages.generate.self_instruct import bootstrap
from tests.support.cases import CASES, NAMES, Case
from tests.support.cli import call
from tests.support.running import planned_steps, run, states
from tests.support.serving import NAME, FakeServer, HttpMessage, http_response, listening

QUALITY = ROOT / "stages/score/judge/prompts/rating/quality.jinja"
RECIPE = """\
name: own
models: {{m: {{engine: openai, model: {name}, base_url: "http://127.0.0.1:{port}/v1"}}}}
stages:
  a: {{uses: load.records, with: {{path: rows.jsonl, source: s, license: MIT}}}}
  judged:
    uses: score.judge
    needs: a
    with: {{model: m, method: {{name: rating, aspects: [quality]}}}}
  new:    {{uses: generate.respond, needs: a, with: {{models: [m]}}}}
  shards: {{uses: export.parquet, needs: judged}}
"""
EVIL = "What is {{ 7 * 7 }}? {% raw %} {{ response }} {# no #}"


async def four(request: HttpMessage) -> bytes:
    body = {
        "choices": [{"message": {"content": "4"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1},
    }
    return http_response("200 OK", json.dumps(body).encode())


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[FakeServer, int]]:
    opened = FakeServer(four)
    with listening(opened) as port:
        yield opened, port
    close_engines()


@pytest.fixture
def folder(tmp_path: Path, server: tuple[FakeServer, int]) -> Path:
    rows = [{"prompt": EVIL, "completion": "It is 49."}, {"prompt": "Why?", "completion": "So."}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "own.yaml").write_text(RECIPE.format(name=NAME, port=server[1]))
    return tmp_path


def with_prompts(folder: Path, **texts: str) -> Recipe:
    """The recipe with templates in files of its own, by the names of the prompts."""
    for i, text in enumerate(texts.values()):
        (folder / f"{i}.jinja").write_text(text)
    section = {name: f"{i}.jinja" for i, name in enumerate(texts)}
    text = (folder / "own.yaml").read_text() + f"prompts: {json.dumps(section)}\n"
    return Recipe.from_text(text, folder / "own.yaml")


def test_only_stages_that_use_a_prompt_run_again(folder: Path) -> None:
    store = folder / "store"
    run(Recipe.load(str(folder / "own.yaml")), store)
    same = with_prompts(folder, **{"judge/quality": QUALITY.read_text()})
    assert set(states(same, store).values()) == {"cached"}, "what counts is what it says"
    other = with_prompts(folder, **{"judge/quality": "Rate: {{ conversation }} {{ response }}"})
    assert states(other, store) == {
        "a": "cached", "judged": "stale", "new": "cached", "shards": "unknown",
    }  # fmt: skip
    assert planned_steps(other, store)["judged"].causes == ["prompts changed: quality"]


def test_the_template_is_rendered_and_what_a_row_says_is_none(
    folder: Path, server: tuple[FakeServer, int]
) -> None:
    text = "{% if conversation %}MINE {% endif %}{{ conversation }}|{{ response | upper }}"
    before = len(server[0].requests)
    run(with_prompts(folder, **{"judge/quality": text}), folder / "store", "judged")
    sent = [json.loads(body)["messages"][-1]["content"] for body in server[0].requests[before:]]
    assert sorted(t.startswith("MINE ") for t in sent) == [True, True]
    assert [t.endswith("IT IS 49.") for t in sent].count(True) == 1
    assert sum(EVIL in t for t in sent) == 1


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("judge/quality", "{{ respons }}", "respons, which the stage does not give to judge/qual"),
        ("judge/quality", "{{ respons }}", "did you mean 'response'? (it gives: conversation, hig"),
        ("judge/quality", "{{ x | nope }}", "0.jinja:1: No filter named 'nope'"),
        ("judge/quality", "a\n{% for %}", "0.jinja:2: "),
        ("judge/quality", "{% include 'helpfulness' %}", "it includes 'helpfulness', which is no"),
        ("judge/quality", "{% include '../x.jinja' %}", "which is no prompt beside the one"),
        ("judge/quality", "{% include response %}", "it must say the name of the prompt"),
        ("judge/qualty", "", "there is no prompt 'judge/qualty'"),
        ("judge/qualty", "", "did you mean 'judge/quality'?"),
        ("evolve/deepen", "", "no stage of the recipe uses the prompt 'evolve/deepen'"),
        ("judge/quality", "x" * (1 << 20) + "y", "must have at most 1,048,576 bytes"),
    ],
)  # fmt: skip
def test_mistakes_are_found_at_load(folder: Path, name: str, text: str, expected: str) -> None:
    with pytest.raises(RecipeErrors) as caught:
        with_prompts(folder, **{name: text})
    assert expected in str(caught.value)
    assert "own.yaml:11: prompts: " in str(caught.value)


def test_files_that_are_none_are_refused(folder: Path) -> None:
    (folder / "latin.jinja").write_bytes(b"\xe9t\xe9 {{ response }}")
    (folder / "folder.jinja").mkdir()
    for path, expected in (
        ("nowhere.jinja", "there is no file nowhere.jinja"),
        ("folder.jinja", "there is no file folder.jinja"),
        ("latin.jinja", "latin.jinja must be UTF-8"),
        ("7", "must be the path of a template, got 7"),
    ):
        done = call("plan", str(folder / "own.yaml"), "--set", f"prompts.judge/quality={path}")
        assert (done.code, expected in done.stderr) == (2, True), done.stderr
    done = call("plan", str(folder / "own.yaml"), "--set", "prompts.judge/quality=null")
    assert done.code == 0, done.stderr


@pytest.mark.parametrize(
    "text",
    [
        "{{ response.__class__.__mro__[1].__subclasses__() }}",
        "{{ response.nothing }}",
        "{{ 1 / 0 }}",
        "{{ range(100000000) | list }}",
        "{{ ''.__class__ }}",
    ],
)
def test_what_cannot_be_rendered_is_the_users_mistake(folder: Path, text: str) -> None:
    recipe = with_prompts(folder, **{"judge/quality": text})
    with pytest.raises(UserError, match="the prompt cannot be rendered") as caught:
        run(recipe, folder / "store", "judged")
    assert "0.jinja" in str(caught.value)


def test_a_template_has_no_chance_of_its_own(folder: Path) -> None:
    for text in ("{{ lipsum() }}", "{{ [1, 2] | random }}"):
        with pytest.raises(RecipeErrors):
            with_prompts(folder, **{"judge/quality": text})


def test_plan_says_what_a_template_leaves_out(folder: Path) -> None:
    recipe = with_prompts(folder, **{"judge/quality": "{{ response }} {{ high }}"})
    notes = prompt_notes(step.stage for step in recipe.steps.values())
    assert notes == [
        "0.jinja, in the place of judge/quality, does not use conversation, low: the model will "
        "not see that"
    ]
    done = call("plan", str(folder / "own.yaml"), "--set", "prompts.judge/quality=0.jinja")
    assert f"note: {notes[0]}" in done.stderr


def test_every_prompt_has_a_name_that_finds_it_and_can_stand_for_itself() -> None:
    keys: dict[str, str] = {}
    for stage_name in available():
        stage = find(stage_name)
        for prompt in prompts_of(stage):
            assert keys.setdefault(prompt.name, prompt.key) == prompt.key
            assert prompt_key(prompt.name, []) == prompt.key
            assert prompt.used <= prompt.variables
            templates, problems = read_prompts(
                {prompt.name: str(prompt.file)}, ROOT, [stage], complete=True
            )
            assert (problems, [one.name for one in templates]) == ([], [prompt.key])
            assert templates[0].digest == prompt_digests(stage)[prompt.key]
    shipped = {p for p in (ROOT / "stages").rglob("prompts/**/*.jinja") if ".answer." not in p.name}
    assert {ROOT / key for key in keys.values()} == shipped
    assert {"judge/quality", "arena/verdict", "backtranslate/humback/instruction"} <= {*keys}


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_a_stage_gives_what_a_template_may_use(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variables that are read from the code are those that arrive when it runs."""
    rendered: dict[str, set[str]] = {}
    render = Prompts.render

    def recorded(self: Prompts, name: str, /, **values: Any) -> str:
        rendered.setdefault(str(self.folder / f"{name}.jinja"), {*values}).intersection_update(
            values
        )
        return render(self, name, **values)

    monkeypatch.setattr(Prompts, "render", recorded)
    stage = case.resolved
    edges = {edge.name: case.edges.get(edge.name) for edge in stage.edges}
    with counting():
        stage.call(_CountingContext.of(tmp_path, None), edges, case.all_options(tmp_path))
    own = {str(prompt.file): prompt for prompt in prompts_of(stage)}
    assert {*rendered} <= {*own}, "only these can be replaced"
    for file, values in rendered.items():
        assert own[file].variables <= values, file


def test_a_stage_uses_no_prompts_of_packages_that_it_only_passes() -> None:
    folders = {str(Path(key).parent) for key in used_prompts(find("generate.backtranslate"))}
    shared = "stages/_llm/prompts/humback"  # its curation asks as Humback's judge does
    assert {folder.split("/prompts")[0] for folder in folders - {shared}} == {
        "stages/generate/backtranslate"
    }


def test_an_included_prompt_can_be_replaced(tmp_path: Path) -> None:
    folder = bootstrap.PROMPTS.folder
    key = "stages/generate/self_instruct/prompts/bootstrap/tasks/shown.jinja"
    shown = Replacement(key, folder / "tasks/shown.jinja", tmp_path / "x", b"SHOWN {{ count }}")
    values: dict[str, Any] = {"tasks": [], "count": 7, "topics": (), "fields": (), "chat": True}
    ours = bootstrap.PROMPTS.render("tasks/alpaca", **values)
    with replaced((shown,)):
        other = bootstrap.PROMPTS.render("tasks/alpaca", **values)
    assert "SHOWN 7" in other
    assert "SHOWN" not in ours
    assert bootstrap.PROMPTS.render("tasks/alpaca", **values) == ours


OWN = '''\
"""A stage of the user's own, with a prompt."""

import polars as pl

from pipeline.context import Context
from pipeline.stage import Records, stage
from stages._llm.prompts import Prompts

PROMPTS = Prompts(__file__)


@stage(version=1, scope="row", reads=["messages"], adds={"shown": pl.String})
def show(ctx: Context, rows: Records) -> pl.DataFrame:
    texts = [PROMPTS.render("say", text=m[0]["content"]) for m in rows["messages"]]
    return pl.DataFrame({"shown": texts})
'''


@pytest.fixture
def package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of the user's own beside the recipe, with a prompt inside."""
    inside = folder / "own_package/own_show"
    (inside / "prompts").mkdir(parents=True)
    (folder / "own_package/__init__.py").write_text("")
    (inside / "__init__.py").write_text(OWN)
    (inside / "prompts/say.jinja").write_text("Say {{ text }}")
    text = (folder / "own.yaml").read_text()
    text += "  mine: {uses: own_package.own_show, needs: a}\n"
    text += "  mine_out: {uses: export.jsonl, needs: mine}\n"
    (folder / "own.yaml").write_text(text)
    monkeypatch.setattr(sys, "path", [*sys.path, str(folder)])
    for name in [name for name in sys.modules if name.startswith("own_package")]:
        del sys.modules[name]
    return folder


def test_stages_of_the_users_own_in_packages(package: Path) -> None:
    recipe = with_prompts(package, **{"own_show/say": "Tell {{ text }}"})
    store = package / "store"
    run(recipe, store, "mine")
    (prompt,) = prompts_of(recipe.step("mine").stage)
    assert (prompt.name, prompt.variables) == ("own_show/say", {"text"})
    stage = recipe.step("mine").stage
    rows = pl.DataFrame({"id": ["x"], "messages": [[{"role": "user", "content": "hello"}]]})
    for prompts, expected in (((), "Say hello"), (stage.prompts, "Tell hello")):
        remote = RemoteStage(stage.name, code_hash(stage), prompts, recipe.step("mine").options)
        result, _, _ = remote.run({}, package, rows)
        assert result["shown"].to_list() == [expected], "also in worker processes"
    done = call("cat", str(package / "own.yaml"), "mine", "--store", str(store))
    assert done.code == 0, "rows of a run with another prompt are its newest"
    assert '"shown":"Tell Why?"' in done.stdout


def test_a_changed_prompt_makes_a_release_and_the_bundle_carries_it(
    folder: Path, server: tuple[FakeServer, int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    (folder / "my").mkdir()
    template = folder / "my/quality.jinja"
    template.write_text("Rate {{ response }} of {{ conversation }}")
    path = folder / "own.yaml"
    path.write_text(path.read_text() + "prompts: {judge/quality: my/quality.jinja}\n")
    at = ("--store", str(folder / "store"))
    for text, version in (("Rate", "1.0"), ("Rate", "1.0"), ("Judge", "2.0")):
        template.write_text(f"{text} {{{{ response }}}} of {{{{ conversation }}}}")
        assert call("run", str(path), *at).code == 0
        bundle = str(folder / "own.zip")
        done = call("release", str(path), *at, "--bundle", bundle, "--journal")
        assert (done.code, f"own@{version}" in done.stdout) == (0, True), done.stderr
    done = call("diff", "own@1.0", "own@2.0", *at, "--json")
    (changed,) = json.loads(done.stdout)["prompts"]
    assert (changed["stage"], Path(changed["prompt"]).name) == ("judged", "quality.jinja")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copy(folder / "own.zip", elsewhere)
    shutil.copy(folder / "rows.jsonl", elsewhere)
    sent = len(server[0].requests)
    done = call("run", str(elsewhere / "own.zip"), "--store", str(elsewhere / "store"))
    assert (done.code, "byte for byte those of own@2.0" in done.stdout) == (0, True), done.stderr
    assert len(server[0].requests) == sent


def test_stages_prints_prompts() -> None:
    page = call("stages", "score.judge", "--prompts")
    assert page.code == 0
    assert "judge/quality  (score.judge, stages/score/judge/prompts/rating/quality.jinja)" in (
        page.stdout
    )
    assert "variables: conversation, high, low, response" in page.stdout
    assert QUALITY.read_text().splitlines()[0] in page.stdout
    assert "wording is this project's own" in " ".join(page.stdout.split())
    entries = json.loads(call("stages", "score", "--prompts", "--json").stdout)
    assert {"stage", "name", "file", "variables", "text"} == {*entries[0]}
    assert "judge/quality" in [entry["name"] for entry in entries]
    assert "no prompts" in call("stages", "dedup.exact", "--prompts").stdout


def test_a_module_without_replacements_renders_its_own_files(ctx: Context) -> None:
    module = ctx.work / "fanno.py"
    prompts = Prompts(str(module))
    prompts.folder.mkdir(parents=True)
    (prompts.folder / "seed.jinja").write_text("Own {{ x }}")
    other = Replacement("k", QUALITY, QUALITY, b"not this")
    with replaced((other,)):
        assert prompts.render("seed", x=1) == "Own 1"
