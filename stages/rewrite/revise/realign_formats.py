"""ReAlign's 46 types of tasks, and the form that an answer to each is to have.

The names, which of them are reformatted (35) and which of these with retrieved evidence (5) are
the authors'; the descriptions and the forms are our wording.
"""

from __future__ import annotations

from typing import Final

_ANALYSED: Final = (
    "A paragraph about what the question comes down to; the answer; why; a conclusion."
)
_EDITED: Final = "The new text first; then a list of what was changed and why."
_LABELLED: Final = "The answer first; then the reason for it."
_EXPLAINED: Final = (
    "A paragraph about what is to be explained; the explanation as a list or a table; a conclusion."
)
_CODED: Final = (
    "A paragraph about the task; the code with comments in a fenced block; a list that explains "
    "its parts; a conclusion."
)

FORMATS: Final[dict[str, str]] = {
    "question_generation": "The questions as a list.",
    "email_generation": (
        "A subject line, a greeting, a sentence on why it is written, short paragraphs, a "
        "courteous end and a signature."
    ),
    "data_generation": "The data as a list.",
    "recommendations": (
        "A sentence about what the person is after; the recommendations; a list of reasons; a "
        "conclusion."
    ),
    "how_to_generation": "What the question comes down to; the answer; how it works; a conclusion.",
    "planning": (
        "The aims in the first sentence; the plan as a list in the order of time; the reasons; a "
        "conclusion."
    ),
    "instructional_rewriting": _EDITED,
    "language_polishing": _EDITED,
    "text_correction": _EDITED,
    "code_correction": (
        "The corrected code with comments in a fenced block; then a list of what was changed and "
        "why."
    ),
    "information_extraction": "What was extracted as a list or a table.",
    "keywords_extraction": "The keywords as a list.",
    "explain_code": _EXPLAINED,
    "explain_answer": _EXPLAINED,
    "text_to_text_translation": "The translation first; then a list that explains choices.",
    "text_to_code_translation": _CODED,
    "code_to_code_translation": _CODED,
    "code_to_text_translation": (
        "A paragraph about what the code is for; a documentation in sections; a conclusion."
    ),
    "open_qa": _ANALYSED,
    "closed_qa": _ANALYSED,
    "fill_in_the_blank": "A paragraph about what is missing; then the answer and why it fits.",
    "fact_verification": _LABELLED,
    "math_puzzles": (
        "A paragraph about what is asked for; the solution as a list of steps; the reasons; the "
        "result and a conclusion."
    ),
    "language_learning_questions": _ANALYSED,
    "natural_language_learning_tutor": _ANALYSED,
    "exam_problem_solving_tutor": _ANALYSED,
    "ml_ai_language_model_tutor": "The answer; why; a conclusion.",
    "general_classification": _LABELLED,
    "ordering": _LABELLED,
    "sentiment_analysis": _LABELLED,
    "code_language_classification": _LABELLED,
    "language_classification": _LABELLED,
    "topic_classification": _LABELLED,
    "value_judgement": _ANALYSED,
    "rejecting": "That it is not done; then why not.",
}
"""The form of an answer, by the type of the task."""

WITH_EVIDENCE: Final = frozenset(
    {"how_to_generation", "open_qa", "fact_verification", "recommendations", "explain_answer"}
)
"""Types that the paper reformats with what a search engine says about them."""

LEFT_ALONE: Final = (
    *("story_generation", "poem_generation", "advice_giving", "code_simplification"),
    *("paraphrasing", "table_extraction", "title_generation", "text_summarization"),
    *("note_summarization", "roleplay", "default"),
)
"""Types without a form: their answers stay."""

TYPES: Final = (*FORMATS, *LEFT_ALONE)
"""All types of tasks."""
