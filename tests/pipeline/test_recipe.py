"""Everything that is wrong with a recipe is reported together, before anything runs."""

from __future__ import annotations

import json
import random
import re
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import RecipeErrors, UserError
from pipeline.execution.plan import plan
from pipeline.recipe.recipe import Recipe
from pipeline.store.store import Store
from tests.support.bundled import NAMES, content
from tests.support.running import MODEL, TOY, pool, recipe, run, toys


def load(tmp_path: Path, text: str, *overrides: str) -> Recipe:
    pool(tmp_path / "rows.txt", 4)
    path = tmp_path / "r.yaml"
    path.write_text(toys(text))
    return Recipe.load(str(path), overrides)


def mistakes(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load(tmp_path, text, *overrides)
    return str(caught.value).replace(f"{TOY}.", "toy.").replace(str(tmp_path), "")


GOOD = """\
name: good
models:
  m: {engine: transformers, model: nowhere, id: m1}
stages:
  a: {uses: toy.load, with: {path: rows.txt}}
  sized: {uses: toy.length, needs: a, with: {plus: 1}}
  brief: {uses: toy.at_most, needs: sized, with: {maximum: 5}}
"""

MANY = """\
name: bad
models:
  m: {engine: transformers, model: nowhere, id: m1, dytpe: float32}
stages:
  a: {uses: toy.load, with: {path: rows.txt, pth: 3}}
  a2: {uses: toy.load, with: {path: absent.txt}}
  a3: {uses: toy.load, with: {path: rows.txt}}
  a3: {uses: toy.load, with: {path: rows.txt}}
  b: {uses: score.los, needs: a3}
  c: {uses: toy.typed, needs: a3, with: {maximum: "200", flag: 1, names: [x, 2]}}
  d: {uses: toy.judge, needs: a3, with: {model: n}}
  e: {uses: toy.at_most, needs: a3, with: {maximum: 1}}
  f: {uses: toy.length, needs: gone}
  g: {uses: toy.length, need: a3}
  h: {uses: toy.length, needs: i}
  i: {uses: toy.length, needs: h}
  j: {uses: toy.length, needs: a3}
  k: {uses: toy.length, needs: j}
  l: {uses: toy.sizes, needs: a3}
  m: {uses: toy.length, needs: {row: a3}}
  n: {uses: toy.length, needs: [a3, j]}
  o: {uses: toy.load, needs: a3, with: {path: rows.txt}}
  p: {uses: toy.at_most, needs: j}
  q: {uses: toy.length, needs: a3, as: {lenght: l}}
extra: 1
"""


def test_all_mistakes_are_told_together_with_their_lines(tmp_path: Path) -> None:
    text = mistakes(tmp_path, MANY)
    expected = {
        3: ["unknown key 'dytpe'", "did you mean 'dtype'?"],
        5: ["unknown option 'pth'", "did you mean 'path'?"],
        6: ["there is no file 'absent.txt'"],
        8: ["duplicate key 'a3'"],
        9: ["there is no stage 'score.los'", "did you mean 'score.loss'"],
        10: [
            "maximum must be an integer, got '200'",
            "flag must be true or false, got 1",
            "names[1] must be a text, got 2",
        ],
        11: ["there is no model 'n'"],
        12: ["reads the column 'length', which 'a3' does not have"],
        13: ["needs 'gone', which the recipe does not have"],
        14: ["unknown key 'need'", "did you mean 'needs'"],
        15: ["the stages form a cycle: h -> i -> h"],
        18: ["adds 'length', which is there already", "as: {length: another_name}"],
        19: ["needs files for 'files', but 'a3' gives records"],
        20: ["has no edge 'row'", "did you mean 'rows', which is missing?"],
        21: ["edge 'rows' must have one input, got 2"],
        22: ["takes no input"],
        23: ["the option 'maximum' is missing"],
        24: ["'as' renames 'lenght'", "did you mean 'length'"],
        25: ["unknown key 'extra'"],
    }
    for line, parts in expected.items():
        of_line = text.split(f"r.yaml:{line}:", 1)
        assert len(of_line) == 2, f"nothing of line {line} in\n{text}"
        for part in parts:
            assert part in text, part
            reported_at = text[: text.index(part)].rpartition("r.yaml:")[2].split(":")[0]
            assert reported_at == str(line), (
                f"{part}: reported at line {reported_at}, stands on {line}"
            )
    lines = [int(line) for line in re.findall(r"^/r.yaml:(\d+):", text, re.MULTILINE)]
    assert lines == sorted(lines)
    number = len([line for line in text.splitlines() if "r.yaml:" in line])
    assert text.endswith(f"{number} mistakes in the recipe")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "a recipe must be a mapping"),
        ("- 1", "a recipe must be a mapping with the keys name, models and stages, got [1]"),
        ("stages: {}", "the recipe has no 'name'"),
        ("name: x", "the recipe has no 'stages'"),
        ("name: x\nstages: []", "stages must be a mapping, got []"),
        ("name: x\nstages: {a: 3}", "stages.a must be a mapping, got 3"),
        ("name: x\nstages: {a: {with: {}}}", "stages.a has no 'uses'"),
        ("name: x\nstages: {a: {uses: 3}}", "stages.a.uses must be a text, got 3"),
        ("name: x\nstages: {a: {uses: ''}}", "there is no stage ''"),
        ("name: x\nstages: {a: {uses: ..}}", "there is no stage '..'"),
        ("name: x\nstages: {a: {uses: json.tool}}", "there is no stage 'json.tool'"),
        ("name: x\nstages: {a: {uses: [}}", "is not valid YAML"),
        ("name: x\nstages: {a: !!python/none 1}", "got the tag '!!python/none'"),
        ("name: x\nstages: {[1]: 2}", "is not valid YAML"),
        ("name: x\nstages: &a {b: *a}", "contains itself"),
        ("name: x\nstages: {a: \x01}", "is not valid YAML"),
        ("name: ../x\nstages: {}", "must not begin with a dot or contain a slash, got '../x'"),
        *(
            (
                f"name: x\nstages: {{{name}: {{uses: toy.load, with: {{path: rows.txt}}}}}}",
                "a stage's name must be a letter or _, followed by letters, digits, _ or -, "
                f"got {shown}",
            )
            for name, shown in [
                ("a/b", "'a/b'"),
                ("X y", "'X y'"),
                ("123", "123"),
                ("on", "true"),
                ("null", "null"),
                ("''", "''"),
                ("a.b", "'a.b'"),
                ("1a", "'1a'"),
                ('"a\\n"', "'a\\n'"),
            ]
        ),
        ("name: x\nmodels: {m: 3}\nstages: {}", "model 'm' must be a mapping"),
        (
            "name: x\nmodels: {m: {engine: vllm2, model: y}}\nstages: {}",
            "model 'm': engine must be 'transformers', 'vllm'",
        ),
        ("name: x\nmodels: {m: {from: z}}\nstages: {}", "is from 'z', which the recipe does"),
        (
            "name: x\nmodels: {m: {model: y, checkpoint: epoch-1}}\nstages: {}",
            "model 'm' has a checkpoint, but no `from`",
        ),
    ],
)
def test_what_is_no_recipe_is_told_plainly(tmp_path: Path, text: str, what: str) -> None:
    assert what in mistakes(tmp_path, text)


@pytest.mark.parametrize(
    ("kept", "named", "hint"),
    [
        ("[1, 3]", "epoch-1", None),
        ("[1, 3]", "epoch-2", "it keeps epoch-1, epoch-3"),
        ("[]", "epoch-1", "it keeps none"),
    ],
)
def test_a_checkpoint_must_be_one_that_the_training_keeps(
    tmp_path: Path, kept: str, named: str, hint: str | None
) -> None:
    model = f"early: {{from: trained, checkpoint: {named}}}"
    training = f"{{model: data/models/tinylm, num_train_epochs: 3, checkpoints: {kept}}}"
    text = (
        f"name: x\nmodels:\n  m: {{model: data/models/tinylm}}\n  {model}\nstages:\n"
        "  pool: {uses: load.records, with: {path: rows.jsonl, source: s, license: MIT}}\n"
        "  shards: {uses: export.parquet, needs: pool}\n"
        f"  trained: {{uses: train.sft, needs: {{shards: shards}}, with: {training}}}\n"
        "  scored: {uses: score.loss, needs: pool, with: {model: early}}\n"
    ).replace("model: data/models/tinylm, num", "model: m, num")
    (tmp_path / "rows.jsonl").write_text('{"instruction": "Q", "output": "A"}\n')
    if hint is None:
        (tmp_path / "x.yaml").write_text(text)
        models = Recipe.load(str(tmp_path / "x.yaml")).steps["scored"].options.model
        assert (models.made_by, models.checkpoint) == ("trained", named)
        assert models.short_name == f"trained-{named}"
        return
    shown = mistakes(tmp_path, text)
    assert f"trained keeps no checkpoint {named!r}" in shown
    assert hint in shown


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ("{maximum: 200}", None),
        ("{maximum: 200.0}", "maximum must be an integer, got 200.0"),
        ("{maximum: true}", "maximum must be an integer, got true"),
        ("{ratio: 1}", None),
        ("{ratio: '1'}", "ratio must be a number, got '1'"),
        ("{ratio: .nan}", "ratio must be a plain, finite value"),
        ("{ratio: .inf}", "ratio must be a plain, finite value"),
        ("{ratio: 2020-01-01}", "ratio must be a plain, finite value"),
        ("{names: [a, b]}", None),
        ("{names: a}", "names must be a list, got 'a'"),
        ("{flag: yes}", None),
        ("{flag: 'yes'}", "flag must be true or false, got 'yes'"),
        ("{maximum: null}", "maximum must be an integer, got null"),
    ],
)
def test_options_are_typed_strictly(tmp_path: Path, options: str, what: str | None) -> None:
    text = f"{GOOD}  t: {{uses: toy.typed, needs: a, with: {options}}}\n"
    if what is None:
        assert load(tmp_path, text).steps["t"].stage.name == f"{TOY}.typed"
    else:
        problem = mistakes(tmp_path, text)
        assert what in problem
        assert "r.yaml:8: " in problem


def test_wrong_columns_and_models_of_a_graph(tmp_path: Path) -> None:
    steps = """\
  two: {uses: toy.judge, needs: a, with: {model: m, criteria: [x, y]}, as: {x: z, y: z}}
  own: {uses: toy.judge, needs: a, with: {model: m, criteria: [line]}}
  none: {uses: toy.judge, needs: a, with: {model: m}, as: {quality: 3}}
  base: {uses: toy.judge, needs: a, with: {model: m, criteria: [messages]}}
  back: {uses: toy.judge, needs: own, with: {model: m}}
"""
    text = mistakes(tmp_path, GOOD + steps)
    assert "two: 'as' gives two columns one name" in text
    assert "makes a column 'line', which is a name of the engine's own" in text
    assert "the new name of 'quality' must be a text, got 3" in text
    assert "adds 'messages', which is there already" in text
    assert "4 mistakes" in text
    models = GOOD.replace("model: nowhere, id: m1", "from: a")
    text = mistakes(tmp_path, models + "  j: {uses: toy.judge, needs: a, with: {model: m}}\n")
    assert "its model is from 'a', which makes no files" in text


def test_what_a_stage_cannot_read_is_told_with_its_line(tmp_path: Path) -> None:
    steps = "  best: {uses: select.top, needs: brief, with: {score: length *, budget: 3}}\n"
    text = mistakes(tmp_path, GOOD + steps)
    assert "r.yaml:8: best (select.top): score must be a column or an SQL expression" in text
    assert "1 mistake" in text


def test_what_a_stage_says_of_its_options_is_told_beside_mistakes_of_the_graph(
    tmp_path: Path,
) -> None:
    text = """\
        name: both
        stages:
          a: {uses: toy.load, with: {path: rows.txt}}
          b: {uses: select.random, needs: a, with: {budget: -1}}
          c: {uses: toy.at_most, needs: a, with: {maximum: 1}}
        """
    message = mistakes(tmp_path, textwrap.dedent(text))
    assert "/r.yaml:4: b (select.random): budget must be at least 0, got -1" in message
    assert "/r.yaml:5: c (toy.at_most) reads the column 'length'" in message


def test_a_renamed_column_is_there_under_its_new_name(tmp_path: Path) -> None:
    steps = """\
  again: {uses: toy.length, needs: sized, as: {length: second}}
  short: {uses: toy.at_most, needs: again, with: {maximum: 3, column: second}}
"""
    wired = load(tmp_path, GOOD + steps)
    assert list(wired.steps["short"].columns)[-2:] == ["length", "second"]


def test_what_is_set_from_outside_replaces_what_is_written(tmp_path: Path) -> None:
    wired = load(tmp_path, GOOD, "stages.brief.with.maximum=9", "stages.a.with.source=else")
    assert wired.steps["brief"].options.maximum == 9
    assert wired.steps["a"].options.source == "else"
    bare = GOOD.replace(", with: {plus: 1}", ", with:")
    assert load(tmp_path, bare, "stages.sized.with.plus=2").steps["sized"].options.plus == 2


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("stages.brief.with.maximum", "must be of the form PATH=VALUE"),
        ("maximum=3", "--set maximum: 'maximum' must be a path into the recipe"),
        ("stages.breif.with.maximum=3", "did you mean 'brief'?"),
        ("stages.brief.with.maximun=3", "did you mean 'maximum'?"),
        (
            "stages.brief.with.maximum=x",
            "--set stages.brief.with.maximum: brief (toy.at_most): maximum must be an integer",
        ),
        (
            "stages.brief.with.maximum=[",
            "--set stages.brief.with.maximum: the text is not valid YAML",
        ),
        ("stages.brief.uses.x=1", "the recipe has no mapping 'stages.brief.uses'"),
    ],
)
def test_what_is_set_wrongly_is_told(tmp_path: Path, override: str, what: str) -> None:
    assert what in mistakes(tmp_path, GOOD, override)


def test_paths_are_looked_up_beside_the_recipe(tmp_path: Path, monkeypatch: Any) -> None:
    folder = tmp_path / "elsewhere"
    (folder / "data").mkdir(parents=True)
    pool(folder / "data/b.txt", 2, start=2)
    pool(folder / "data/a.txt", 2)
    text = GOOD.replace("rows.txt", "data/*.txt")
    (folder / "r.yaml").write_text(toys(text))
    monkeypatch.chdir(tmp_path)
    path = Recipe.load("elsewhere/r.yaml").steps["a"].options.path
    assert path == (str(folder / "data/a.txt"), str(folder / "data/b.txt"))
    (folder / "r.yaml").write_text(toys(GOOD.replace("rows.txt", "data")))
    with pytest.raises(RecipeErrors, match="must be a file, got the folder"):
        Recipe.load("elsewhere/r.yaml")


def test_a_link_keeps_its_own_name(tmp_path: Path) -> None:
    pool(tmp_path / "blob", 2)
    (tmp_path / "linked.jsonl").symlink_to(tmp_path / "blob")
    wired = load(tmp_path, GOOD.replace("rows.txt", "linked.jsonl"))
    assert wired.steps["a"].options.path == (str(tmp_path / "linked.jsonl"),)


def test_there_is_no_such_recipe() -> None:
    with pytest.raises(UserError, match="did you mean 'quickstart'"):
        Recipe.load("quikstart")


def test_a_module_that_cannot_be_imported_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "broken_toy_module.py").write_text("import json\nraise ValueError('no luck')\n")
    (tmp_path / "unparsable_toy_module.py").write_text("def f(:\n")
    text = GOOD + "  x: {uses: broken_toy_module}\n  y: {uses: unparsable_toy_module.f}\n"
    problem = mistakes(tmp_path, text)
    assert "broken_toy_module.py:2: ValueError: no luck" in problem
    assert "unparsable_toy_module.py:1: SyntaxError" in problem


def test_a_recipe_in_python_is_the_same_object(tmp_path: Path) -> None:
    written = load(tmp_path, GOOD)
    run(written, tmp_path / "store")
    steps = {
        "a": {"uses": "toy.load", "with": {"path": str(tmp_path / "rows.txt")}},
        "sized": {"uses": "toy.length", "needs": {"rows": ["a"]}, "with": {"plus": 1}},
        "brief": {"uses": "toy.at_most", "needs": "sized", "with": {"maximum": 5}},
    }
    in_python = recipe(steps, "other")
    store = Store(tmp_path / "store")
    prints = {p.step.name: p.fingerprint for p in plan(written, store)}
    assert None not in prints.values()
    assert prints == {p.step.name: p.fingerprint for p in plan(in_python, store)}
    shutil.rmtree(tmp_path / "store")
    run(in_python, tmp_path / "store")
    assert prints == {p.step.name: p.fingerprint for p in plan(in_python, store)}


def test_steps_come_in_an_order_in_which_each_follows_what_it_needs() -> None:
    steps = {
        "c": {"uses": f"{TOY}.merge", "needs": ["b", "a"]},
        "b": {"uses": f"{TOY}.length", "needs": "a"},
        "a": {"uses": f"{TOY}.load", "with": {"path": "README.md"}},
    }
    assert list(Recipe.of("x", steps, MODEL).steps) == ["a", "b", "c"]


def test_names_of_stages_may_have_letters_of_any_script(tmp_path: Path) -> None:
    text = GOOD.replace("sized", "größe-2").replace("brief", "_brief")
    assert list(load(tmp_path, text).steps) == ["a", "größe-2", "_brief"]


def _slips() -> Iterator[tuple[str, dict[str, Any], str]]:
    """Bundled recipes with one letter of one name missing, and the name that was meant."""

    def mappings(raw: dict[str, Any]) -> Iterator[list[str]]:
        for name in raw["stages"]:
            at = ["stages", name]
            for inner in (at, [*at, "with"], [*at, "needs"], [*at, "with", "method"]):
                mapping: Any = raw
                for key in inner:
                    mapping = mapping.get(key) if isinstance(mapping, dict) else None
                if isinstance(mapping, dict):
                    yield inner

    rng = random.Random(11)
    for name in NAMES:
        raw = content(name)
        places = [(at, key) for at in mappings(raw) for key in _at(raw, at)]
        for at, key in rng.sample(places, 16):
            if key == "name" or (at[-1] == "with" and key == "method"):
                continue  # without them another method is chosen, with options of its own
            if len(key) == 1:
                continue  # nothing of it would be left
            changed = json.loads(json.dumps(raw))  # without the anchors, by which one is several
            mapping = _at(changed, at)
            drop = rng.randrange(len(key))
            items = [
                (key[:drop] + key[drop + 1 :] if k == key else k, v) for k, v in mapping.items()
            ]
            mapping.clear()
            mapping.update(items)
            yield name, changed, key


def _at(raw: Any, keys: list[str]) -> Any:
    for key in keys:
        raw = raw[key]
    return raw


SLIPS = list(_slips())


@pytest.mark.parametrize(
    "slip", [pytest.param(n, marks=pytest.mark.proof if n % 4 else ()) for n in range(len(SLIPS))]
)
def test_one_slip_is_one_mistake_with_the_name_that_was_meant(slip: int) -> None:
    name, raw, meant = SLIPS[slip]
    sections = {k: v for k, v in raw.items() if k in ("models", "prices", "budget")}
    with pytest.raises(RecipeErrors) as caught:
        Recipe.of(name, raw["stages"], **sections)
    (problem,) = caught.value.problems
    assert repr(meant) in str(problem.hint)
