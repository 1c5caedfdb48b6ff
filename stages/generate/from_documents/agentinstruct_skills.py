"""The skills that AgentInstruct's flows teach, with their transformations and task types.

The paper (Mitra et al. 2024, arXiv:2407.03502) has 17 skills with more than a hundred types
of instructions. These lists and their wording are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

AS_IT_IS: Final = "as it is"
"""The transformation that does not change a passage."""


@dataclass(frozen=True)
class Skill:
    """One skill.

    Attributes:
        forms: What a passage can be transformed into: description by name.
        types: The types of instructions: description by name.
        includes_text: The transformed passage is part of the user's turn.
    """

    forms: dict[str, str]
    types: dict[str, str]
    includes_text: bool = True


_UNCHANGED: Final = {AS_IT_IS: ""}

SKILLS: Final = {
    "reading comprehension": Skill(
        {
            "argument": "a passage that argues for a claim with reasons and evidence",
            "debate": "a debate in which two people defend opposite views",
            "conversation": "a conversation of a few people who do not all know the same",
            "meeting": "the minutes of a meeting with decisions and open points",
            "poem": "a poem of a few stanzas",
            "satire": "a satirical piece that means the opposite of what it says",
            "manual": "a manual that leads step by step to a result",
            "long article": "an article of several paragraphs with background and details",
        },
        {
            "fact": "a question whose answer stands in the text",
            "inference": "a question whose answer only follows from several places of the text",
            "main idea": "a question of what the text as a whole says",
            "vocabulary": "a question of what a word or phrase means where it stands",
            "purpose": "a question of why the author says something",
            "strengthen": "which of several lettered statements would strengthen the argument",
            "weaken": "which of several lettered statements would weaken the argument",
            "assumption": "which of several lettered statements the argument takes for granted",
            "contradiction": "which of several lettered statements contradicts the text",
            "true or false": "whether a statement is true, false or not to be known by the text",
            "cause and effect": "a question of what led to something, or what it led to",
            "comparison": "a question of how two things in the text differ",
            "order": "put events or steps of the text, given in disorder, into their order",
            "numbers": "a question whose answer is calculated from numbers in the text",
        },
    ),
    "text modification": Skill(
        _UNCHANGED
        | {
            "letter": "a letter to somebody",
            "news": "a short report for a newspaper",
            "story": "a scene of a story",
        },
        {
            "simplify": "have it said for readers who know nothing of the subject",
            "shorten": "have it cut to a given length without losing what matters",
            "expand": "have it filled with examples and background",
            "tone": "have its tone changed to another one that is named",
            "reader": "have it rewritten for another reader who is named",
            "perspective": "have it told from another point of view",
            "style": "have it rewritten in the style of a named genre or period",
            "format": "have it put into another form: a list, a table, a dialogue, an email",
            "tense": "have it put into another tense or person throughout",
            "correct": "have mistakes corrected that were put into it",
            "remove": "have a kind of detail taken out of it everywhere",
            "constraint": "have it rewritten under an odd rule, such as a letter that is not used",
            "two steps": "have two changes made to it at once",
        },
    ),
    "text extraction": Skill(
        _UNCHANGED
        | {
            "report": "a report full of names, dates, amounts and places",
            "email": "an exchange of emails about an errand",
            "listing": "a listing of goods, rooms or positions with their properties",
        },
        {
            "entities": "have all things of one kind listed",
            "key and value": "have named properties given as JSON",
            "table": "have facts of one kind put into a table with named columns",
            "quotations": "have the places quoted that say something about a subject",
            "timeline": "have events listed by their time",
            "relations": "have it said who or what is related to whom, and how",
            "conditional": "have only those listed that meet a condition",
            "counting": "have it counted how often something occurs, with the places",
        },
    ),
    "text classification": Skill(
        _UNCHANGED
        | {
            "review": "a customer's review",
            "message": "a message to a company's service",
            "post": "a post in a forum",
        },
        {
            "topic": "sort it into one of several named topics",
            "sentiment": "say what attitude it takes towards something",
            "intent": "say what the writer wants to achieve, out of named choices",
            "register": "say for whom it was written, out of named choices",
            "several labels": "give all labels of a list that fit",
            "by rules": "sort it by definitions of the classes that are given with it",
            "reasons": "sort it and justify the choice by quotations",
            "ranking": "rate a property of it on a scale that is defined",
        },
    ),
    "analytical reasoning": Skill(
        {
            "puzzle": "the setting of a puzzle: people or things, places, and rules that bind them",
            "schedule": "a plan with persons, times and conditions that must be met",
            "case": "a case with circumstances of which only some matter",
        },
        {
            "must be true": "which of several lettered statements must be true",
            "could be true": "which of several lettered statements can be true",
            "cannot be true": "which of several lettered statements cannot be true",
            "full order": "find the one order or assignment that meets all rules",
            "changed rule": "say what follows if one of the rules is replaced",
            "missing rule": "say which further rule would leave one solution only",
            "counting": "say in how many ways all rules can be met",
            "error": "find the flaw in a proposed solution",
        },
    ),
    "data to text": Skill(
        {
            "table": "a table in Markdown with at least four rows and three columns",
            "JSON": "a JSON object with nested lists",
            "key figures": "a list of named figures with their units",
        },
        {
            "describe": "have the data described in prose",
            "compare": "have two entries compared",
            "trend": "have a development told and put in words",
            "highlight": "have what is most remarkable reported in one paragraph",
            "for a reader": "have the data explained to a reader who is named",
            "question": "a question whose answer has to be worked out from the data",
            "check": "have a statement about the data checked",
        },
    ),
    "estimation": Skill(
        _UNCHANGED,
        {
            "quantity": "estimate how many or how much of something there is",
            "rate": "estimate how fast or how often something happens",
            "size": "estimate the extent of something that nobody has measured",
            "cost": "estimate what something would cost",
            "bounds": "give a lower and an upper bound and reasons for them",
        },
        includes_text=False,
    ),
    "creative writing": Skill(
        _UNCHANGED,
        {
            "story": "have a story written with given characters and a turn",
            "poem": "have a poem written in a given form",
            "dialogue": "have a dialogue written between given persons",
            "essay": "have an essay written that defends an unusual view",
            "speech": "have a speech written for an occasion",
            "letter": "have a letter written by somebody in a given situation",
            "slogan": "have several names or slogans invented under rules",
            "scene": "have a scene described through one of the senses",
        },
        includes_text=False,
    ),
    "coding": Skill(
        _UNCHANGED
        | {
            "library": "the description of a small library with the signatures of its functions",
            "program": "a short program with a docstring for each function",
        },
        {
            "implement": "have a function written that does what is described",
            "explain": "have it explained what the code does and why",
            "fix": "have a fault found and corrected that was put into the code",
            "extend": "have a feature added to the code",
            "test": "have tests written that cover the unusual cases",
            "optimise": "have it made faster or smaller, with the reason why it is",
            "translate": "have it translated into another programming language",
            "design": "have the interface of a module designed before it is written",
            "complexity": "have the cost in time and memory worked out",
        },
    ),
}
