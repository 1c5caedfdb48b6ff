"""A script for `scripted` that answers every prompt of every stage in the form it asks for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Final

from schemas.records import digest
from tests.support.scripted import Answer

SENTENCE: Final = "Why would anybody build the house number {0} out of paper, glass or straw?"
_CODE: Final = "```python\ndef house_{0}():\n    return {0}\n```"
_SECTIONS: Final = "Question: " + SENTENCE + "\nAnswer: Because the {0} is light and cheap."

_CHECKER: Final = json.dumps(
    {
        "func": "def evaluate(response):\n    return len(response) > 3",
        "cases": [{"input": "", "output": False}, {"input": "Glass and straw", "output": "true"}],
    }
)
"""What a model writes for AutoIF: a function and cases that fit."""

_ANSWERS: Final[list[tuple[str, str]]] = [
    ("another kind than the others", "- Use more than three letters, not {0}.\n- Say {0}."),
    ("An answer must keep to this rule", _CHECKER),
    ("Which rule is it?", "Use more than three letters."),
    ("nothing else: entailment, neutral, contradiction", "entailment"),
    ("Two rules for one and the same answer", "They go together.\nScore: 8"),
    ("the rule that its answer had to keep to", "It is to the point.\nScore: 9"),
    ("Write the reworded instruction", "Please say it in a sentence."),
    ("Write the reworded request", "Which one is the cold one?"),
    ("Write the changed request", "Which one was the cold one?"),
    ("Write the answer in that style", "It is the one of the north, to be sure."),
    ("Write the new text and nothing else", "As is known, it is the one of the north."),
    ("Solve this step by step", "Step 1: Both are added.\nThe answer is {0}."),
    (
        "Find the first step that is wrong",
        "[Wrong step]\n1\n[Reason]\nNot so.\n[Solution]\nStep 1: They are nine.\n"
        "The answer is 9.\n[End]",
    ),
    ("What caused the mistake?", "haste"),
    ("solve the problem again without it", "Step 1: They are nine.\nThe answer is 9."),
    ("says one detail more than the source", "It is the one of the very cold north, as was said."),
    ("one detail of the source is missing", "The one."),
    ("nothing else: split, prefix, suffix, keep", "suffix"),
    (
        "then a line #New Instruction#",
        "#Explanation#\nIt is light.\n\n#New Instruction#\n" + SENTENCE + " And who pays for it?",
    ),
    ("Two answers to one request are to be graded", '{"reason": "{0}", "first": 5, "second": 5}'),
    (
        "\n[New instruction]\n",
        "[Critique]\nIt is short.\n[New instruction]\n"
        + SENTENCE
        + "\n[New answer]\nStraw.\n[End]",
    ),
    ("what is weak in the", "[Critique]\nIt is short.\n[New answer]\nIt is the {0}.\n[End]"),
    ("the answer in its form", "[New answer]\nIt is the {0}, as was said above.\n[End]"),
    ("is the better one: more accurate", "B"),
    ("with default where none fits", "closed_qa"),
    ("Answer with the name of one category", "other"),
    (
        "\n[Revised instruction]\n",
        "[Revised instruction]\nTell us.\n[Revised answer]\nIt is the {0}.\n[End]",
    ),
    ("Which of them fit the task best?", "2, 5"),
    (
        "a list of the other ones that fit as well",
        json.dumps({"task_category": "Math", "other_task_categories": ["Planning"]}),
    ),
    (
        "what one has to know to answer",
        json.dumps({"intent": "To build.", "knowledge": "Paper.", "difficulty": "hard"}),
    ),
    (
        "what is strong and what is weak",
        json.dumps({"quality_explanation": "It is clear.", "input_quality": "good"}),
    ),
    (
        "what might come of an answer",
        json.dumps({"safety_explanation": "Nothing.", "safety": "safe"}),
    ),
    ("Answer with the name of the category", "Math"),
    (
        '"other_abilities", a list',
        json.dumps({"ability": "mathematical ability", "other_abilities": []}),
    ),
    ('"other_domains", a list', json.dumps({"domain": "legal knowledge", "other_domains": []})),
    ('"task_type", the name of the type', json.dumps({"task_type": "planning"})),
    ('"use_case", what it is for', json.dumps({"use_case": "building", "skills": ["tact"]})),
    ("Answer with the ability that counts most", "mathematical ability"),
    ("Answer with the domain that counts most", "legal knowledge"),
    ("Answer with the name of the type", "planning"),
    (
        "Answer with one JSON list and nothing else",
        json.dumps([{"tag": "building", "explanation": "A house is built."}] * 2),
    ),
    ("List the tags", "1. building\n2. house number {0}"),
    ("Answer with one of these and nothing else: very easy", "hard"),
    ("Answer with one of these and nothing else: very poor", "good"),
    ("Answer with one of these and nothing else: safe", "safe"),
    (
        "Write the description alone",
        "A mason who builds house {0} out of glass and dislikes straw.",
    ),
    ("Change what is wrong with it", "It is light, and cheap, and it is {0}."),
    ("It is VAGUE", "no"),
    ("Does the answer do all", "yes"),
    ("2 times 2\n2 and 3", "The answer is 5."),
    ("Go on from where it stops", "That makes 4.\nThe answer is 4."),
    ("an advertisement?", "no"),
    ("tell private things", "no"),
    ("Answer yes or no.", "yes"),
    ("Is it classification?", "No"),
    ("Each instruction comes with its output.", "output: It is number {0}.\n|EoS|"),
    ("Answer True or False.", "True"),
    ("Answer equal or different.", "different"),
    ("Say A, B or tie", "A"),
    ("Say only one of these words", "foo"),
    ("Say a number from 1 to 5", "4"),
    ("Score both answers from 1 to 10", "7 8\nThe {0} is there."),
    ("one letter, A, B or C", "A"),
    ("Do not answer it.", "The house {0} is built of paper, which is light."),
    ("a single number:", "4"),
    ("##Quality: ", "4"),
    ("Write the score first", "4.5\nIt is right, but for the {0}."),
    ("end with a line of its own", "It is complete and to the point.\nScore: 5"),
    ("Answer with one of these words and nothing else: refusal", "moralising"),
    ("Answer with one of these and nothing else: good, bad.", "good"),
    ("Answer with a number from 1 to 5", "4"),
    (
        "Answer with one JSON object and nothing else",
        json.dumps({"difficulty": 3, "reason": "It is long.", "level": "hard"}),
    ),
    ("Write one JSON object", json.dumps({"quality": 9, "difficulty": 5, "needs_more": False})),
    (
        "Write JSON and nothing else",
        json.dumps([{"instruction": "Do it.", "input_fields": [], "output_field": "answer"}]),
    ),
    ("Use case: what it is for", "Use case: building {0}\nSkills: tact; grammar; arithmetic"),
    ("Describe the character", "Name: Ada {0}\nKnows: numbers\nSpeaks: dryly\nRefuses: gossip"),
    ("Then list", "You are a clerk.\n1. Be brief about {0}.\n2. Name a number."),
    ("List 2 concepts", "1. Supply {0}\n2. Demand {0}"),
    (
        "You write training rows out of raw code",
        "Task: A house\nInstruction: " + SENTENCE + "\nInformation: None\nSolution: " + _CODE,
    ),
    ("Revised question:", "Revised question: " + SENTENCE + "\nRevised answer: It is light."),
    ("Question: ...", _SECTIONS),
    ("Instruction: ...", "Instruction: " + SENTENCE + "\nAnswer: It is light and cheap."),
    ("[Problem Description]", "[Problem Description]\n" + SENTENCE + "\n[Solution]\n" + _CODE),
    ("[Tests]", _CODE + "\n[Tests]\n```python\nassert house_{0}() == {0}\n```"),
    ("Which concepts of programming", "loops {0}, recursion, hash tables, sorting"),
    ("For each rule write one line", "\n".join(f"{n}. yes: it does" for n in range(1, 9))),
    ("criteria", "1. Ask for {0}.\n2. Ask for a rare one.\n3. Ask for two.\n4. Ask for more."),
    ("on each line, numbered", "1. " + SENTENCE + "\n2. " + SENTENCE + "\n3. And the {0} again?"),
    ("each on one line, numbered", "1. " + SENTENCE + "\n2. Who lives in the house {0}?"),
]
"""(text in the prompt, answer); the first that matches counts, and {0} becomes a number."""


def _listed(text: str) -> str | None:
    """The end of a list of tasks that the prompt begins, or the list that it requests."""
    begun, requested = re.search(r"\n(\d+)\.$", text), re.search(r"numbered from (\d+)", text)
    if begun is None and requested is None:
        return None
    count = re.search(r"Write (\d+) more", text)
    number = int(count[1]) if count else 8
    first = int((begun or requested)[1])  # type: ignore[index]
    tasks = [f"{first + n}. Build the house {{0}}, part {n}." for n in range(number)]
    return "\n".join(tasks).removeprefix(f"{first}.") if begun else "\n".join(tasks)


_GERMAN: Final = (
    "Warum sollte jemand das Haus auf der Wiese aus Papier oder aus Stroh bauen wollen?"
)


def _translated(text: str) -> str | None:
    """The parts of a conversation in German, with all their marks."""
    if "[Part 1]" not in text:
        return None
    parts = re.findall(r"^\[Part \d+\]\n(.*?)(?=\n\[)", text, re.DOTALL | re.MULTILINE)
    marks = (" ".join(["", *re.findall("⟦[0-9]+⟧", part)]) for part in parts)
    words = (_GERMAN + " Ja." * (len(part) // 24) for part in parts)
    written = enumerate(zip(words, marks, strict=True), 1)
    return "\n".join([f"[Part {n}]\n{said}{marked}" for n, (said, marked) in written] + ["[End]"])


def teacher(text: str) -> Answer:
    """An answer in the form that the prompt asks for, with a number that depends on the prompt."""
    number = int(digest(text)[:6], 16)
    form = (
        _translated(text)
        or _listed(text)
        or next((answer for mark, answer in _ANSWERS if mark in text), SENTENCE)
    )
    return form.replace("{0}", str(number)), "stop"


def saying(answer: Answer) -> Callable[[str], Answer]:
    """A script with the same answer to every prompt."""
    return lambda _: answer
