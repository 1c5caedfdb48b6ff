"""The attributes that `generate.taxonomy` combines by default: subjects, levels, skills, topics.

The subjects follow school and university curricula, the levels are those of Bloom's
taxonomy in its revised form (Anderson and Krathwohl 2001), and the skills have the names
that encyclopedias give them. The wording is ours.
"""

from __future__ import annotations

from typing import Final, Literal

Level = Literal["remember", "understand", "apply", "analyze", "evaluate", "create"]

LEVELS: Final[dict[Level, str]] = {
    "remember": "recall or recognise facts, terms and definitions",
    "understand": "explain, summarise, compare or give an example in other words",
    "apply": "use a rule, a method or a procedure in a new situation",
    "analyze": "take something apart and say how its parts are related",
    "evaluate": "judge something by criteria and justify the judgement",
    "create": "plan or make something new out of what was learned",
}
"""What a student does at each level, the simplest first."""

SUBJECTS: Final = {
    "secondary school": (
        *("arithmetic and algebra", "geometry", "statistics and probability", "physics"),
        *("chemistry", "biology", "geography", "history", "economics", "business studies"),
        *("computing", "literature", "grammar and writing", "art and design", "music"),
        *("civics", "environmental management", "nutrition and health"),
    ),
    "university": (
        *("linear algebra", "calculus", "mathematical statistics", "mechanics"),
        *("thermodynamics", "electrical engineering", "materials science", "organic chemistry"),
        *("molecular biology", "neuroscience", "medicine", "computer architecture"),
        *("algorithms and data structures", "operating systems", "databases", "philosophy"),
        *("linguistics", "psychology", "sociology", "political science", "law"),
        *("anthropology", "macroeconomics", "accounting", "urban planning"),
    ),
    "graduate school": (
        *("real analysis", "quantum mechanics", "machine learning", "econometrics"),
        *("epidemiology", "public policy", "cryptography", "control theory"),
    ),
}
"""Subjects by stage of education."""

SKILLS: Final = {
    "metaphor": "one thing is spoken of as if it were another to show a likeness",
    "simile": "a likeness is stated with a word such as like or as",
    "hyperbole": "an exaggeration that nobody takes literally",
    "understatement": "something is made smaller than it is, for effect",
    "irony": "the words say the opposite of what is meant, and the reader can tell",
    "personification": "a thing or an idea acts or feels like a person",
    "alliteration": "several neighbouring words begin with the same sound",
    "anaphora": "successive clauses begin with the same words",
    "antithesis": "two contrary ideas are set against each other in parallel form",
    "rhetorical question": "a question that is asked for effect and expects no answer",
    "modus ponens": "if p then q; p holds; so q holds",
    "modus tollens": "if p then q; q does not hold; so p does not hold",
    "argument by analogy": "what holds for one case is concluded for a like case",
    "appeal to authority": "a claim rests on who made it",
    "false dilemma": "two options are presented as the only ones though there are others",
    "slippery slope": "one step is said to lead to ever worse ones without proof",
    "ad hominem": "a person is attacked instead of the argument",
    "red herring": "something beside the point draws attention away from it",
    "self-serving bias": "somebody takes credit for success and blames others for failure",
    "cognitive dissonance": "somebody holds two beliefs that do not fit and feels the strain",
    "folk physics": "everyday knowledge of how objects move, fall or break is used",
    "spatial reasoning": "where things are relative to each other is worked out",
    "temporal reasoning": "the order or the duration of events is worked out",
    "causal reasoning": "an effect is traced to its cause, or foreseen from it",
    "theory of mind": "what somebody believes or wants is inferred, rightly or not",
}
"""Skills of language and reasoning, each with the description of a text that shows it."""

TOPICS: Final = (
    *("gardening", "a long train journey", "sewing", "a village school", "beekeeping"),
    *("the night sky", "a family recipe", "chess", "repairing a bicycle", "a job interview"),
    *("rowing", "learning the piano", "a winter storm", "an old map", "the stock market"),
    *("moving house", "a museum", "a football match", "bread", "a broken promise"),
)
"""Everyday subjects."""
