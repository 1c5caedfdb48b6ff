"""The catalogue of methods: complete, read from recipes and docstrings, with a way to run each."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pipeline.cli.stage_lists import BEGIN_METHODS, END_METHODS, update_readme
from pipeline.errors import Exit
from pipeline.recipe.discovery import available
from pipeline.recipe.methods import Method, methods, parts
from tests.support.bundled import NAMES
from tests.support.running import called

METHODS = methods()
OF_NO_PAPER = {"curate", "full", "leaderboard", "own-step", "quickstart"}
COVERED = """
Learning percentage, LoBaSS, DS weight, Context-dependency, PASER, GRAPE,
Self-Instruct, Unnatural Instructions, Ensemble-Instruct, David vs Goliath, LaMini-LM,
SELF-GUIDE, Self-Specialization, Dynosaur, Humback (instruction backtranslation), LongForm,
InverseCoder, Non-instructional data, AITP, FANNO, Instruction Pre-Training, Bonito,
Self-Tuning (self-teaching), AgentInstruct, MAmmoTH2, SelfCodeAlign, WaveCoder (CodeOcean),
Human Curriculum, CodecLM, Skill composition, RNR, WarriorCoder, GPT-4 re-answering, Orca,
ReGenesis, S3FT, Reflection-Tuning, Selective Reflection-Tuning, CoachLM, CoEvol, CITING, NILE,
CLEAR, Self-Lengthen, Step-by-step instructions, Smaller evolvers + IC-IFD, M2Lingual, LIFT,
LeMa, Mistake tuning (CoTErrorSet), OVERMISS / SWIE, R-Tuning, Mosaic-IT,
Sequential Instruction Tuning, Chain-of-Instructions, VIF-RAG, Light-IF, Ruler, SAIL, StruQ,
sPhinX, FLAN, Meta-tuning, InsTag, DEITA, Long Is More, Active instruction tuning,
Heterogeneous feedback, OPT-IML, Scaling Flan (Flan-PaLM), Flan Collection, Poison of Alignment,
LMSI, CoDI-Eval, AlpaGasus, AutoIF, DPO, Evol-Instruct, Magpie, OSS-Instruct, Persona Hub,
ReAlign, RuleR, SecAlign, Self-Seq, Super-NaturalInstructions, T0,
Nuggets, DELIFT, MIWV, ARTE, CGE (what's new in my data),
SMART, Beyond IID, Skill-it, SFT composition (DMT), Tülu 1 (Camels), Tülu 2, Tülu 3, OpenBezoar,
EasyInstruct, AlpaCare, Pre-instruction-tuning,
NEFTune, Instruction Modelling, Masked Thought, FIGA, SFTMix, Half fine-tuning, MeCo,
Teacher worth a million instructions, Weak-to-strong, WiSE-FT, Model Stock, Disperse-then-merge,
RE-Adapt, UFT,
AutoPoison, AlpacaFarm, RevisEval, InstructQA, INSTRUCTEVAL, Robustness to rephrasing,
Prompt-injection robustness, Verbalizer manipulation,
LESS, TAGCOS, DataInf, Get more for less (GOT-D), Monosemantic activations, RDS+, DiverseEvol,
Diversify & Conquer,
Maybe only 0.5%,
InstructMining, CAR (stronger ≠ better teacher), IterSelectTune, A-LoL,
Adapt-∞, Response Tuning, IFS early stopping, Conditional training, MinorSFT,
Intuitive fine-tuning, Small-LM help (SALT), DsDm
"""


def test_the_catalogue_has_the_methods_that_are_covered() -> None:
    assert set(re.split(r",\s+", COVERED.strip())) <= {method.name for method in METHODS}


def test_every_recipe_is_of_a_method_or_of_none() -> None:
    assert {m.recipe for m in METHODS} == {*NAMES} - OF_NO_PAPER


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.recipe)
def test_a_method_is_told_in_full(method: Method) -> None:
    entry = method.entry()
    assert list(entry) == ["name", "paper", "stage", "recipe", "as_in_paper", "differs", "needs"]
    assert all(entry.values())
    assert all(entry["paper"].values())
    assert set(method.stages) <= set(available())
    assert "tiny" in method.profiles  # which tests/test_recipes.py runs
    assert {step["uses"] for step in method.options.values()} == set(method.stages)


def test_papers_are_told_apart() -> None:
    titles = {(method.paper.arxiv, method.paper.title) for method in METHODS}
    assert len(titles) == len({arxiv for arxiv, _ in titles})


def test_parts_end_where_the_next_begins() -> None:
    text = (
        "It. As in the paper: a, b. As in the authors' code (x/y): c. Ours: d. Left out: e. Put f."
    )
    assert parts(text) == {"paper": "A, b.", "code": "C.", "ours": "D.", "left": "E."}
    assert parts("Nothing is said.") == dict.fromkeys(("paper", "code", "ours", "left"), "")


@pytest.mark.parametrize("name", ["deita", "DEITA", "2312.15685", "arXiv:2312.15685"])
def test_a_method_is_shown_by_name_recipe_and_number(name: str) -> None:
    page = called("methods", name)
    assert page.returncode == Exit.DONE
    assert "What Makes Good Data for Alignment?" in page.stdout
    for part in ("as in the paper", "ours", "needs", "run deita --profile tiny", "select.diverse"):
        assert part in page.stdout


def test_a_name_with_an_aside_needs_none() -> None:
    assert "Humback (instruction backtranslation)" in called("methods", "Humback").stdout


def test_all_methods_are_listed_and_given_as_json() -> None:
    listed = called("methods").stdout
    entries = json.loads(called("methods", "--json").stdout)
    assert [entry["name"] for entry in entries] == [method.name for method in METHODS]
    assert all(entry["name"] in listed for entry in entries)


def test_a_misspelt_method_gets_the_nearest_one() -> None:
    answer = called("methods", "dieta")
    assert answer.returncode == Exit.MISTAKE
    assert "'dieta'" in answer.stderr
    assert "deita" in answer.stderr


def test_the_readme_lists_the_methods(tmp_path: Path) -> None:
    for place in ("stages", "pipeline/recipes"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "pipeline/recipes/one.yaml").write_text(
        '# One, "All of It" (A 2024,\n# arXiv:2401.00001): it.\nname: one\n'
        "stages: {pool: {uses: load.records}}\n"
    )
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN_METHODS}\nold\n{END_METHODS}\nafter\n")
    assert [update_readme(tmp_path), update_readme(tmp_path)] == [True, False]
    assert "| One | All of It (A 2024, arXiv:2401.00001) | `one` |" in readme.read_text()
    assert "old" not in readme.read_text()
