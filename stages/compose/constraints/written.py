"""Constraints that a language model writes, with the functions that check them.

The first half of AutoIF; the second half, queries and their answers, is in `autoif.py`, where it
says what is as in the paper. A constraint is a draft: `constraint` is its sentence, `functions` are
the sources of the functions that stood the tests, with their `accuracies`. `journal` holds all
completions that made it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import polars as pl

from pipeline.errors import UserError
from pipeline.models.base import Decoding, Engine
from pipeline.models.counting import is_counting
from pipeline.types import Count, Fraction, NonNegativeFloat, NonNegativeInt, option_group
from stages._llm.drafts import LABEL_TOKENS, Draft, Prompt, generate_field, score_field, user
from stages._llm.label_scores import MIN_MASS
from stages._llm.lists import listed_items
from stages._llm.preambles import instruction_text
from stages._llm.prompts import Prompts
from stages._sandbox.checkers import Outcome, cross_validated, expected_outcome, run_checkers
from stages._sandbox.execute import Limits
from stages._sandbox.isolation import isolation

PROMPTS: Final = Prompts(__file__)

ENTAILMENT: Final = {"entailment": 0.0, "neutral": 0.0, "contradiction": 1.0}
"""What a rule may be to another one; the value is that of `contradiction`."""

SCHEMA: Final = json.dumps(
    {
        "type": "object",
        "required": ["func", "cases"],
        "properties": {
            "func": {"type": "string", "minLength": 1},
            "cases": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["input", "output"],
                    "properties": {
                        "input": {"type": "string"},
                        "output": {"type": ["boolean", "string"]},
                    },
                },
            },
        },
    }
)

Case = tuple[str, bool]
"""A text, and whether it follows the constraint."""


@option_group
class Written:
    """How constraints and their functions are written and tested.

    Args:
        num_requests: How often constraints are asked for; 0 for the seeds alone.
        per_request: How many at a time.
        temperature: Of constraints and functions.
        max_tokens: Limit of a list of constraints in tokens.
        num_functions: Functions, each with its cases, that are asked for a constraint.
        function_max_tokens: Limit of each in tokens.
        min_functions: The fewest distinct functions that must run.
        min_cases: The fewest distinct cases.
        min_agreeing: A case stays if more than this part of the functions agree with it: 0 as in
            the authors' code, .5 as in the paper.
        min_accuracy: A function stays if it agrees with at least this part of these: .8 as in the
            code, in the paper more than .5.
        num_back_translations: How many functions are translated back; 0 for none.
        max_contradiction: The most probability that a function's rule contradicts the constraint.
        rule_max_tokens: Limit in tokens of the rule that a function is translated back into.
        judge_max_tokens: Limit in tokens of the word that says whether both contradict.
        min_mass: The least probability of all words that it may be, together.
        timeout: Seconds for each call of a function.
        memory_mb: Memory of each.
        unsafe: Run functions although nothing on this machine isolates them.
    """

    num_requests: NonNegativeInt = 1
    per_request: Count = 50
    temperature: NonNegativeFloat = 1.0
    max_tokens: Count = 4096
    num_functions: Count = 8
    function_max_tokens: Count = 1024
    min_functions: Count = 3
    min_cases: Count = 10
    min_agreeing: Fraction = 0.0
    min_accuracy: Fraction = 0.8
    num_back_translations: NonNegativeInt = 3
    max_contradiction: Fraction = 0.5
    rule_max_tokens: Count = 128
    judge_max_tokens: Count = LABEL_TOKENS
    min_mass: Fraction = MIN_MASS
    timeout: Count = 5
    memory_mb: Count = 512
    unsafe: bool = False

    @property
    def limits(self) -> Limits:
        """Of each call of a function."""
        return Limits(seconds=self.timeout, memory_mb=self.memory_mb)


def seeds() -> tuple[str, ...]:
    """36 sentences of ours, as many as the authors have."""
    lines = Path(__file__).with_name("seeds.txt").read_text("utf-8").splitlines()
    return tuple(line for line in lines if line.strip())


def constraints(
    engine: Engine,
    judge: Engine,
    options: Written,
    first: Sequence[str],
    seed: int,
    known: Collection[str] = (),
) -> list[Draft]:
    """Write constraints with their functions.

    Args:
        engine: Writes them.
        judge: Compares what a function checks with what it was to check.
        options: How.
        first: The seeds, which are constraints too.
        seed: Of the sampling.
        known: The keys of constraints that are there already, and are not written again.

    Returns:
        A draft for each constraint, and one for each request for constraints that came to none.
        One whose functions did not stand the tests is dropped: `too_few_functions` (that ran, or
        cases), `not_validated` (no function agrees with enough cases) or `contradiction`.
    """
    drafts = _sentences(engine, options, first, seed, known)
    _write_functions(engine, drafts, options, seed)
    if not is_counting():
        _validate(drafts, options)
    if options.num_back_translations:
        _translate_back(engine, judge, drafts, options, seed)
    return drafts


def by_sentence(drafts: Iterable[Draft]) -> dict[str, Draft]:
    """The first draft of each constraint, by its sentence without regard to case and blanks.

    Args:
        drafts: Constraints, of which some may be there twice.

    >>> texts = ("Use no comma.", "use  no Comma. ")
    >>> len(by_sentence(Draft((), {"constraint": text}) for text in texts))
    1
    """
    first: dict[str, Draft] = {}
    for draft in drafts:
        first.setdefault(" ".join(draft["constraint"].casefold().split()), draft)
    return first


def constraints_of(files: Iterable[str]) -> list[Draft]:
    """Constraints with functions that were tested before.

    Args:
        files: JSON Lines: `instruction`, and `functions`, a list of sources; or `eval_func`, pairs
            of a source and its accuracy, as in the authors' files.

    Raises:
        UserError: A line holds something else.
    """
    return [
        _ready(line, f"{file}:{number}")
        for file in files
        for number, line in enumerate(Path(file).read_text("utf-8-sig").splitlines(), 1)
        if line.strip()
    ]


def _ready(line: str, where: str) -> Draft:
    try:
        row = json.loads(line)
        sources = row.get("functions") or [source for source, _ in row["eval_func"]]
        sentence = row["instruction"].strip()
        texts = [sentence, *sources]
        if not sources or not all(isinstance(text, str) and text.strip() for text in texts):
            raise ValueError(line)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"a line must be a constraint with its functions, got {line[:80]}",
            where=where,
            hint='{"instruction": "Use no comma.", "functions": ["def evaluate(response): ..."]}',
        ) from None
    return Draft((), {"constraint": sentence, "functions": [*sources]})


def _sentences(
    engine: Engine, options: Written, first: Sequence[str], seed: int, known: Collection[str]
) -> list[Draft]:
    """The seeds and the new sentences, each once, and the requests that came to nothing."""
    requests = [Draft((), {"seeds": first}, number=n) for n in range(options.num_requests)]
    values = {"seeds": first, "count": options.per_request}
    decoding = Decoding(options.max_tokens, options.temperature)
    text = user(PROMPTS.render("sentences", **values)) if requests else ""
    generate_field(
        *(engine, requests, "sentences", lambda _: text, decoding),
        seed=seed,
        parse=lambda answer: listed_items(answer) or None,
    )
    sentences = [Draft((), {"constraint": sentence}) for sentence in first]
    for request in requests:
        for sentence in request["sentences"] if request.active else ():
            draft = request.child(constraint=" ".join(sentence.split()))
            draft.number = 0
            sentences.append(draft)
    new = [draft for key, draft in by_sentence(sentences).items() if key not in known]
    return [*new, *(request for request in requests if not request.active)]


def _write_functions(engine: Engine, drafts: Sequence[Draft], options: Written, seed: int) -> None:
    """Note the distinct `functions` and `cases` that the model wrote for each constraint.

    An answer that cannot be read is one function less: the constraint is none the worse for it.
    """
    decoding = Decoding(options.function_max_tokens, options.temperature, json_schema=SCHEMA)
    active = [draft for draft in drafts if draft.active]
    children = [_numbered(d, n) for d in active for n in range(options.num_functions)]
    generate_field(engine, children, "checker", _checker_prompt, decoding, seed=seed)
    for number, draft in enumerate(active):
        start = number * options.num_functions
        own = children[start : start + options.num_functions]
        _take_journals(draft, own)
        draft.error = next((child.error for child in own if child.error), None)
        checkers = [child["checker"] for child in own if child.active]
        draft.fields["functions"] = [*dict.fromkeys(source_of(c["func"]) for c in checkers)]
        draft.fields["cases"] = cases_of(checkers)
        draft.fields["unread"] = len(own) - len(checkers)


def _numbered(draft: Draft, number: int) -> Draft:
    child = draft.child()
    child.number = number
    return child


def _take_journals(draft: Draft, children: Iterable[Draft]) -> None:
    """Add what the children of a draft were asked to its journal."""
    start = len(draft.journal)
    draft.journal += [key for child in children for key in child.journal[start:]]


def _checker_prompt(draft: Draft) -> Prompt:
    return user(PROMPTS.render("checker", constraint=draft["constraint"]))


def source_of(text: str) -> str:
    r"""The source of a function that a model wrote into JSON.

    Some escape the ends of its lines twice: such a text is no Python, and is read once more.

    Args:
        text: The value in the JSON.

    >>> source_of("def evaluate(r):\\n    return True")
    'def evaluate(r):\n    return True'
    """
    source = text.strip()
    if "\\n" in source and not _is_python(source):
        unescaped = source.replace("\\n", "\n")
        return unescaped if _is_python(unescaped) else source
    return source


def _is_python(source: str) -> bool:
    try:
        compile(source, "function", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def cases_of(checkers: Iterable[Any]) -> list[Case]:
    """The distinct cases; one whose outcome is neither true nor false, as text or not, is none.

    Args:
        checkers: What the model wrote, each with `cases`.

    >>> cases_of([{"cases": [{"input": "a", "output": "True"}, {"input": "a", "output": True}]}])
    [('a', True)]
    """
    read = [
        (case["input"], outcome)
        for checker in checkers
        for case in checker["cases"]
        if (outcome := expected_outcome(case["output"])) is not None
    ]
    return [*dict.fromkeys(read)]


def _validate(drafts: Sequence[Draft], options: Written) -> None:
    """Let the functions and cases of each constraint judge each other."""
    for draft in drafts:
        if not draft.active:
            continue
        texts = [text for text, _ in draft["cases"]]
        outcomes = _outcomes(draft["functions"], texts, options)
        # A function that says neither of any text has not run.
        ran = [n for n, said in enumerate(outcomes) if any(isinstance(o, bool) for o in said)]
        if len(ran) < options.min_functions or len(texts) < options.min_cases:
            draft.reject(
                "too_few_functions",
                functions=len(draft["functions"]),
                ran=len(ran),
                cases=len(texts),
                unread=draft["unread"],
            )
            continue
        expected = [outcome for _, outcome in draft["cases"]]
        result = cross_validated(
            [outcomes[n] for n in ran], expected, options.min_agreeing, options.min_accuracy
        )
        accuracies = [None if a is None else round(float(a), 3) for a in result.accuracies]
        if not result.functions:
            draft.reject("not_validated", accuracies=accuracies, cases=len(result.cases))
            continue
        draft.fields["accuracies"] = [accuracies[n] for n in result.functions]
        draft.fields["functions"] = [draft["functions"][ran[n]] for n in result.functions]


def _outcomes(
    functions: Sequence[str], texts: Sequence[str], options: Written
) -> list[list[Outcome]]:
    if not functions or not texts:
        return [[] for _ in functions]
    chosen = isolation(options.unsafe)
    return run_checkers(functions, texts, options.limits, chosen, pl.thread_pool_size())


def _translate_back(
    engine: Engine, judge: Engine, drafts: Sequence[Draft], options: Written, seed: int
) -> None:
    """Drop constraints of which a function checks the contrary."""
    decoding = Decoding(options.rule_max_tokens, 0.0)
    active = [draft for draft in drafts if draft.active]
    groups = [
        [draft.child(function=f) for f in draft["functions"][: options.num_back_translations]]
        for draft in active
    ]
    children = [child for group in groups for child in group]
    write = partial(generate_field, engine, children, seed=seed, parse=instruction_text)
    write("rule", lambda d: user(PROMPTS.render("rule", function=d["function"])), decoding)
    score_field(
        *(judge, children, "contradiction", _entailment_prompt, ENTAILMENT),
        seed=seed,
        min_mass=options.min_mass,
        max_tokens=options.judge_max_tokens,
    )
    for draft, group in zip(active, groups, strict=True):
        _take_journals(draft, group)
        draft.error = next((child.error for child in group if child.error), None)
        draft.rejection = next((c.rejection for c in group if c.rejection), None)
        if draft.active and not is_counting():
            _reject_contradiction(draft, group, options.max_contradiction)


def _reject_contradiction(draft: Draft, group: Sequence[Draft], most: float) -> None:
    for child in group:
        if child["contradiction"] > most:
            evidence = {"rule": child["rule"], "probability": child["contradiction"]}
            draft.reject("contradiction", constraint=draft["constraint"], **evidence)
            return


def _entailment_prompt(draft: Draft) -> Prompt:
    values = {"constraint": draft["constraint"], "rule": draft["rule"]}
    return user(PROMPTS.render("entailment", **values))
