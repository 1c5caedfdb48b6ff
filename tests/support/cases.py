"""Every method that sends requests to language models, small: what holds for all of them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

import polars as pl

from pipeline.models import Embedder, LanguageModel
from pipeline.recipe.discovery import find
from pipeline.stage import Stage
from schemas.records import DOCUMENT_COLUMNS, digest
from stages._constraints.ifeval.lengths import NumberWords
from stages._constraints.stored import stored
from stages.compose.combine.chain import Chain
from stages.compose.combine.self_seq import SelfSeq
from stages.compose.combine.sequence import SequenceMethod
from stages.compose.constraints.autoif import AutoIf
from stages.compose.constraints.written import Written
from stages.compose.context import Sail, VifRag
from stages.compose.context.labels import Judged
from stages.compose.translate.methods import Full, Selective
from stages.evaluate.judge import Revised, WinRate
from stages.evaluate.robustness import Injection, Verbalizer
from stages.generate import arena, backtranslate, respond, system_prompt
from stages.generate.backtranslate.curation import TextRating
from stages.generate.column.outputs import Label, Structured, Text
from stages.generate.from_documents import (
    AgentInstruct,
    Aitp,
    Bonito,
    Fanno,
    InstructionPretraining,
    Mammoth2,
    OssInstruct,
    SelfCodeAlign,
    WaveCoder,
)
from stages.generate.pairs import FirstPit, SelfTaught, SPaR
from stages.generate.personas import FromText, Relations, Tasks
from stages.generate.self_instruct.instance_options import Simple, ZeroShotAnswered
from stages.generate.self_instruct.methods import LaMini, SelfInstruct
from stages.generate.taxonomy import Curriculum, Metadata, Skills
from stages.rewrite import evolve, revise
from stages.rewrite.correct import LeMa, MistakeTuning, OverMiss
from stages.rewrite.correct.solutions import Sampled
from stages.rewrite.paraphrase import S3FT, Physics, Steps, Unnatural, Variants
from stages.score.agreement import Confidence, Exact, Knowledge, Perturbed, Rouge, Samples
from stages.score.column import Labels, Scale
from stages.score.judge import AlpaGasus, Deita, Gap, Humback, Pairwise, PTrue, Rating, Rubric
from stages.tag.intent import ClosedSets, Open
from stages.tag.refusal import Model as RefusalModel
from tests.support.rows import DATA, alpaca, conversations, exam, json_lines, sample, self_instruct

MODEL: Final = LanguageModel(model="none", id="none")
TINYLM: Final = LanguageModel(model=str(DATA / "models/tinylm"))
FIELDS: Final = {"difficulty": "int 1..5", "reason": "str", "level": ["easy", "hard"]}
"""Fields of an answer, as the teacher gives them."""

ALL_SETS: Final = (
    "task_category", "difficulty", "quality", "safety", "language", "ability", "domain",
    "task_type", "metadata",
)  # fmt: skip

LIMIT: Final = 48
"""Tokens of an answer: about what the teacher says."""

_ROWS: Final = sample("self_instruct.jsonl.gz").head(20)
_WITH_INPUT: Final = self_instruct(20).filter(pl.col("input_start").is_not_null())
_ENCODED: Final = _ROWS.head(8).with_columns(
    attributes=pl.Series([["building", "tact", "grammar"]] * 8, dtype=pl.List(pl.String))
)
"""Rows with use case and skills."""
_BOOK: Final = [row["text"] for row in json_lines(DATA / "samples/rust_book.jsonl.gz")]
_PROBLEMS: Final = json_lines(DATA / "benchmarks/HumanEval.jsonl.gz")
_ANSWERS: Final = conversations(
    [(f"What is {n}?", f"It is {n} {word}.") for n in range(6) for word in ("indeed", "not", "so")]
)
_PEOPLE: Final = conversations([(f"A sailor with {n} boats who mends nets.",) for n in range(6)])
_LABELLED: Final = conversations([(f"Sort number {n}.", "foo") for n in range(6)])
_OTHERS: Final = conversations([(f"What is {n}?", f"It may be {n}.") for n in range(6)])
_COLD: Final = [
    (f"Say which {word} is cold.", f"The {word} of the north is.")
    for word in ("sea", "wind", "river", "moon")
]
_PLAIN: Final = conversations(_COLD)
_SUMS: Final = conversations(
    [
        (f"How much are {n} and {9 - n}?", f"{n} and {9 - n} is 9.\nThe answer is 9.")
        for n in range(4)
    ]
)
_TRANSLATED: Final = alpaca(
    {"instruction": "Translate.", "input": source, "output": target} for source, target in _COLD
)
_CODE: Final = conversations(
    [(f"Write f{n}.", f"```\ndef f{n}():\n    return {n} * 2\n```") for n in range(8)]
)

_AUTOIF: Final = AutoIf(
    seeds=("Use no word twice.",),
    written=Written(num_functions=2, min_functions=1, min_cases=2, per_request=2, max_tokens=LIMIT),
    num_pairs=1,
    queries=2,
    query_characters=(1, 4000),
    answer_max_tokens=LIMIT,
)
"""Small, with functions that are run."""


class Case(NamedTuple):
    """One way: a stage, what stands on its edges, and its options."""

    stage: str
    method: str
    edges: dict[str, pl.DataFrame]
    options: dict[str, Any]

    @property
    def resolved(self) -> Stage:
        return find(self.stage)

    def all_options(self, folder: Path) -> dict[str, Any]:
        """Its options with the defaults, and a data set card of its own where it reads one."""
        arguments = {option.name: option.default for option in self.resolved.options} | self.options
        if "cards" in arguments:
            rows = DATA / "benchmarks/gsm8k_test.jsonl.gz"
            card = {"name": "GSM8K", "license": "MIT", "rows": str(rows), "description": "School."}
            (folder / "card.json").write_text(json.dumps(card))
            arguments["cards"] = (str(folder / "card.json"),)
        return arguments

    def namespace(self, folder: Path) -> SimpleNamespace:
        return SimpleNamespace(**self.all_options(folder))


def few_rows(case: Case, rows: int = 4) -> dict[str, pl.DataFrame]:
    """What stands on the edges, cut short; all of it where a method chooses among several."""
    if case.method in ("induction", "inverse") or case.stage in ("score.judge", "generate.pairs"):
        return case.edges
    short = {"rows": rows, "documents": rows}
    return {name: frame.head(short.get(name, 100)) for name, frame in case.edges.items()}


def _documents(texts: list[str]) -> pl.DataFrame:
    lines = [
        {"id": digest(t), "text": t, "origins": [{"source": "s", "index": i, "license": "MIT"}]}
        for i, t in enumerate(texts)
    ]
    return pl.DataFrame(lines, schema=DOCUMENT_COLUMNS).sort("id")


def _cases() -> list[Case]:
    book = _documents(_BOOK[:6])
    code = _documents([row["prompt"] + row["canonical_solution"] for row in _PROBLEMS[:12]])
    seeds = conversations([(f"Say number {n} aloud, please.", f"{n}!") for n in range(30)])
    prose = {"documents": book}
    people = {"personas": _PEOPLE}

    def case(stage: str, method: str, edges: dict[str, pl.DataFrame], /, **options: Any) -> Case:
        models = {"models": (MODEL,)} if stage == "generate.respond" else {"model": MODEL}
        if stage == "generate.arena":
            models = {"models": (MODEL,) * 3}
        named = {} if method in ("", "tuned") else {"method": method}
        return Case(stage, method, edges, {**models, "max_tokens": LIMIT, **named, **options})

    def written(method: Any) -> Case:
        options: dict[str, Any] = {"num_rows": 14, "requests_per_round": 1, "method": method}
        models = {"model": MODEL}
        return Case("generate.self_instruct", method.name, {"seeds": seeds}, models | options)

    def evolved(method: Any) -> Case:
        return case("rewrite.evolve", method.name, {"rows": _ROWS}, rounds=2, method=method)

    def revised(method: Any, **options: Any) -> Case:
        return case("rewrite.revise", method.name, {"rows": _ROWS}, method=method, **options)

    def answered(method: Any, edges: dict[str, pl.DataFrame], **options: Any) -> Case:
        return case("generate.respond", method.name, edges, method=method, **options)

    def reversed_(method: Any, edges: dict[str, pl.DataFrame]) -> Case:
        return case("generate.backtranslate", method.name, edges, method=method)

    def prompted(method: Any, **options: Any) -> Case:
        edges = {"rows": _ROWS}
        return case("generate.system_prompt", method.name, edges, method=method, **options)

    def own(stage: str, **options: Any) -> Case:
        """A prompt of the recipe's own."""
        (option,) = (v for v in options.values() if hasattr(v, "name"))
        prompted = {"model": MODEL, "prompt": "Look at this: {{ response }}", **options}
        prompted |= {"max_tokens": LIMIT} if stage == "generate.column" else {}
        return Case(stage, option.name, {"rows": _ANSWERS}, prompted)

    judged = {"rows": _ANSWERS, "reference_answers": _OTHERS}
    rubric = Rubric(criteria=("It is short.", "It is true."))
    judging = (Rating(), rubric, PTrue(), Pairwise(), Gap(), Deita(aspect="quality"))
    reasoned = (Humback(), AlpaGasus())
    return [
        *map(evolved, (evolve.WizardLM(), evolve.Rubric(), evolve.WizardLMCode(), evolve.Turns())),
        case(
            *("rewrite.evolve", "rubric with metadata", {"rows": _ENCODED}),
            method=evolve.Rubric(metadata="attributes"),
            rounds=2,
        ),
        *map(
            revised,
            (
                revise.Reflection(),
                revise.LongIsMore(),
                revise.Mammoth2(),
                revise.ReAlign(),
                revise.SelfLengthen(num_passes=1),
                revise.Citing(categories=("other",)),
                revise.CoachLM(),
            ),
        ),
        revised(revise.CoEvol(rounds=2), judge=MODEL),
        *(
            answered(m, {"rows": _ROWS}, num_answers=2)
            for m in (respond.Answer(), respond.Explain())
        ),
        answered(respond.Reason(), {"rows": _ROWS}),
        case(
            *("generate.respond", "reason by selection", {"rows": _ROWS.head(6)}),
            method=respond.Reason(selection="model"),
            truth="response",
        ),
        answered(respond.InContext(), {"rows": _ROWS, **prose}),
        answered(respond.Continue(max_documents=4), prose),
        prompted(system_prompt.Rules(), verify=True),
        prompted(system_prompt.Profiles(num_profiles=4)),
        case(
            *("generate.taxonomy", "curriculum", {}),
            method=Curriculum(subjects=("law", "art"), num_concepts=2),
        ),
        case("generate.taxonomy", "metadata", {"seeds": _ROWS}, method=Metadata(per_seed=2)),
        case("generate.taxonomy", "skills", {}, method=Skills(num_rows=6)),
        case("generate.from_metadata", "", {}),
        case(*("generate.magpie", "", {}), num_rows=4, domain="math", answer_max_tokens=LIMIT),
        case("generate.personas", "text", prose, method=FromText(per_text=2)),
        case("generate.personas", "relations", people, method=Relations(iterations=2)),
        case("generate.personas", "tasks", people, method=Tasks(kind="npc")),
        Case(
            *("tag.refusal", "model", {"rows": _ANSWERS}),
            {"model": MODEL, "method": RefusalModel(max_tokens=LIMIT)},
        ),
        case("tag.intent", "closed_sets", {"rows": _ROWS}, method=ClosedSets(sets=ALL_SETS)),
        case(
            *("generate.arena", "", {}),
            num_challenges=3,
            challenges=arena.Requested(max_tokens=LIMIT),
        ),
        reversed_(backtranslate.Humback(curation=TextRating(max_tokens=24)), prose),
        reversed_(backtranslate.LongForm(max_passages=5), prose),
        reversed_(backtranslate.Inverse(num_candidates=3), {"rows": _CODE}),
        reversed_(backtranslate.Induction(num_candidates=3), {"rows": _CODE}),
        *(Case("score.judge", m.name, judged, {"model": MODEL, "method": m}) for m in judging),
        *(case("score.judge", m.name, judged, method=m) for m in reasoned),
        *(own("generate.column", output=output) for output in (Text(), Structured(fields=FIELDS))),
        own("generate.column", output=Label(labels=("good", "bad")), num_samples=2),
        *(
            own("score.column", answer=answer)
            for answer in (Scale(), Labels(labels=("good", "bad")))
        ),
        *(
            case("generate.from_documents", method.name, prose, max_passages=9, method=method)
            for method in (
                Bonito(per_passage=2),
                AgentInstruct(per_passage=2),
                Aitp(),
                InstructionPretraining(per_passage=2),
            )
        ),
        case("generate.from_documents", "mammoth2", prose, method=Mammoth2(refine=False)),
        case(
            *("generate.from_documents", "fanno", prose),
            method=Fanno(num_seed_passages=1, per_passage=6),
        ),
        *(
            case("generate.from_documents", method.name, {"documents": code}, method=method)
            for method in (SelfCodeAlign(num_samples=2), WaveCoder(), OssInstruct())
        ),
        written(
            SelfInstruct(
                inputs="without",
                max_tokens=LIMIT,
                max_rouge_l=1.0,
                instances=Simple(
                    num_shots=(11, 16), temperature=0.0, presence_penalty=1.5, max_tokens=(24, 24)
                ),
            )
        ),
        written(
            LaMini(
                max_tokens=LIMIT, max_rouge_l=1.0, instances=ZeroShotAnswered(max_tokens=(24, 24))
            )
        ),
    ]


def _answered(*rows: tuple[str, str, bool]) -> pl.DataFrame:
    """Exchanges of which it is known whether they are correct."""
    frame = conversations([(prompt, answer) for prompt, answer, _ in rows])
    correct = {prompt + answer: right for prompt, answer, right in rows}
    texts = ["".join(m["content"] for m in messages) for messages in frame["messages"].to_list()]
    return frame.with_columns(passed=pl.Series([correct[text] for text in texts]))


def _more_cases() -> list[Case]:
    sums = _answered(
        ("What is 2 and 2?", "2 and 2\nThe answer is 4.", True),
        ("What is 2 and 2?", "2 times 2\n2 and 3\nThe answer is 5.", False),
        ("What is 1 and 3?", "It is VAGUE.", False),
    )
    paraphrase = "A garment takes 2 bolts of blue fiber and half as much white. How many in all?"
    item = "A robe takes 2 bolts of blue fiber and half that much white fiber. How many in total?"
    judged = {"rows": conversations([(paraphrase, "3"), ("Sing a song!", "La.")])}
    judged["benchmarks"] = exam("gsm8k", [{"question": item}])
    embedder = Embedder(model=str(DATA / "models/potion-base-4m"))
    options = {"embedder": embedder, "judge": MODEL, "threshold": 0.3}

    def paired(method: Any) -> Case:
        own = {"model": MODEL, "max_tokens": LIMIT, "method": method}
        return Case("generate.pairs", method.name, {"rows": sums}, own)

    def combined(method: Any) -> Case:
        options = {"model": TINYLM, "writer": MODEL, "method": method}
        return Case("compose.combine", method.name, {"rows": _WITH_INPUT}, options)

    def with_passages(method: Any, **options: Any) -> Case:
        short = [f"A house number {n} of paper, glass or straw is light." for n in range(4)]
        edges = {"rows": _ROWS, "documents": _documents(short)}
        if isinstance(method, VifRag):
            asked = json.dumps(stored([NumberWords(relation="at least", num_words=1)]))
            edges |= {"rows": _ROWS.with_columns(extra=pl.lit(asked)), "queries": _ROWS}
        return Case("compose.context", method.name, edges, {"method": method, **options})

    def agreed(method: Any, **options: Any) -> Case:
        own = {"models": (MODEL,), "max_tokens": LIMIT, "method": method, **options}
        return Case("score.agreement", method.name, {"rows": _ANSWERS}, own)

    def reworded(method: Any, **more: Any) -> Case:
        options = {"model": MODEL, "method": method, "max_tokens": LIMIT, **more}
        return Case("rewrite.paraphrase", method.name, {"rows": _PLAIN}, options)

    def corrected(method: Any, rows: pl.DataFrame, **more: Any) -> Case:
        options = {"model": MODEL, "method": method, "max_tokens": LIMIT, **more}
        return Case("rewrite.correct", method.name, {"rows": rows}, options)

    few_shot = Tasks(kind="math", prompting="persona_few_shot", num_examples=2)
    shown = {"personas": _PEOPLE.head(4), "examples": _ROWS}
    turns = {"model": MODEL, "num_rows": 4, "num_turns": 2, "answer_max_tokens": LIMIT}
    return [
        Case("generate.magpie", "turns", {}, turns),
        Case("generate.personas", "few_shot", shown, {"model": MODEL, "method": few_shot}),
        Case(
            *("tag.intent", "labels", {"rows": _ROWS}),
            {"model": MODEL, "method": ClosedSets(sets=ALL_SETS, explain=False)},
        ),
        *(
            Case("tag.intent", name, {"rows": _ROWS}, {"model": MODEL, "method": method})
            for name, method in (
                ("open", Open(min_count=1)),
                ("open list", Open(min_count=1, explain=False)),
            )
        ),
        *map(
            reworded,
            (
                Unnatural(),
                S3FT(),
                Steps(),
                Physics(num_variants=1),
                Variants(kinds=("wording", "past", "style")),
            ),
        ),
        corrected(LeMa(), _SUMS, solvers=(MODEL,), errors=Sampled(max_tokens=LIMIT)),
        corrected(
            MistakeTuning(right="rethought", explain=True),
            _SUMS,
            solvers=(MODEL,),
            errors=Sampled(max_tokens=LIMIT),
        ),
        corrected(OverMiss(), _TRANSLATED),
        *map(paired, (SPaR(depth=1), SelfTaught(), FirstPit(correct="passed", continuations=2))),
        Case("decontaminate.semantic", "", judged, options),
        *(
            Case("evaluate.judge", name, edges, {"model": MODEL, "method": method})
            for name, edges, method in (
                ("win_rate", {"rows": _ANSWERS, "baseline": _OTHERS}, WinRate(form="scores")),
                ("revised", {"rows": _ANSWERS}, Revised()),
            )
        ),
        *(
            Case(
                *("evaluate.robustness", method.name, {"rows": rows}),
                {"model": MODEL, "method": method},
            )
            for rows, method in (
                (_WITH_INPUT, Injection(max_tokens=LIMIT)),
                (_LABELLED, Verbalizer(labels=("foo", "bar"), neutral=("bar", "foo"))),
            )
        ),
        with_passages(Sail(labels=Judged(), shares=(0, 0.5, 0.5)), judge=MODEL),
        with_passages(VifRag(queries_per_row=1, answer_max_tokens=LIMIT), writer=MODEL),
        *map(
            combined,
            (
                Chain(answer_max_tokens=LIMIT),
                SelfSeq(rounds=2, instruction_max_tokens=LIMIT, answer_max_tokens=LIMIT),
                SequenceMethod(task="paraphrase", answer_max_tokens=LIMIT),
            ),
        ),
        Case(
            *("compose.constraints", "autoif", {"rows": _ROWS}),
            {"model": MODEL, "method": _AUTOIF},
        ),
        Case(
            *("rewrite.revise", "clear", {"rows": _ROWS}),
            {
                **dict.fromkeys(("model", "judge"), MODEL),
                "method": revise.Clear(confidence="LENGTH(id)"),
                "max_tokens": LIMIT,
            },
        ),
        Case(
            *("rewrite.revise", "selective_reflection", {"rows": _ROWS.head(4)}),
            {
                **{"model": MODEL, "student": TINYLM},
                "method": revise.SelectiveReflection(),
                "max_tokens": LIMIT,
            },
        ),
        Case(
            *("rewrite.revise", "nile", {"rows": _ROWS}),
            {
                "model": MODEL,
                "embedder": embedder,
                "method": revise.Nile(),
                "max_tokens": LIMIT,
            },
        ),
        *(
            Case(
                *("rewrite.evolve", name, {"rows": _WITH_INPUT}),
                {"model": MODEL, "method": method, "rounds": 2, "max_tokens": LIMIT},
            )
            for name, method in (
                ("smaller evolvers", evolve.SmallerEvolvers(input="regenerate")),
                ("m2lingual", evolve.M2Lingual(min_language_probability=0.0)),
                ("lift", evolve.Lift()),
            )
        ),
        *(
            Case(
                *("compose.translate", method.name, {"rows": _WITH_INPUT}),
                {
                    "model": MODEL,
                    "languages": ("de",),
                    "method": method,
                    "length_ratio": (0.0, 99.0),
                },
            )
            for method in (Selective(), Full())
        ),
        Case(
            *("rewrite.evolve", "rubric with target", {"rows": _ENCODED}),
            {
                **dict.fromkeys(("model", "target", "judge"), MODEL),
                "method": evolve.Rubric(metadata="attributes", min_gap=0.0),
                "rounds": 2,
                "max_tokens": LIMIT,
            },
        ),
        Case(
            *("generate.column", "", {"rows": _ROWS}),
            {"model": MODEL, "prompt": "Which words are in {{ instruction }}?"},
        ),
        agreed(Samples(num_samples=2), compare=Exact(first_sentence=True, contained=True)),
        agreed(Perturbed(num_prompts=2), compare=Rouge()),
        agreed(Knowledge(), compare=Rouge()),
        agreed(Confidence(num_samples=2), compare=Rouge()),
        Case(
            *("score.column", "", {"rows": _ROWS}),
            {"model": MODEL, "prompt": "Is {{ instruction }} a task? Say a single number:"},
        ),
    ]


CASES: Final = _cases()
NAMES: Final = [f"{case.stage}-{case.method}".rstrip("-") for case in CASES]
MORE_CASES: Final = _more_cases()
"""Pairs and decontamination: what they make, or take, is no record of one answer."""
