"""The closed sets of labels that a model is asked for.

- `task_category`, `difficulty`, `quality` and `safety` are Magpie's (Xu et al. 2024,
  arXiv:2406.08464).
- `ability` and `domain` are those of Beyond IID: Optimizing Instruction Learning from the
  Perspective of Instruction Interaction and Dependency (Zhao et al. 2024, arXiv:2409.07045). The
  labels are the categories that its authors' group published with its data set
  Infinity-Instruct, as others' code lists them; ours are the division into abilities and domains,
  "none" for a request without a domain, and that one label is the main one. (In that data set a
  request has fine labels as well, which are sorted into the categories.)
- `task_type` are the 46 types of ReAlign: Reformatted Alignment (Fan et al. 2024,
  arXiv:2402.12219), whose classifier's answer counts where it is a type's exact name, and else
  as "default". Ours: case and marks around it do not matter, another label is kept in a column and
  counted, and an answer that is no label at all is unreadable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_LEVELS: Final = ("very easy", "easy", "medium", "hard", "very hard")
_QUALITIES: Final = ("very poor", "poor", "average", "good", "excellent")


@dataclass(frozen=True)
class LabelSet:
    """A closed set of labels.

    Args:
        column: Where the label stands, in the row and in the model's JSON.
        labels: The labels; of levels the lowest first.
        words: What the model says before it, with the words that ask for it.
        are_levels: Whether the labels are levels: then their number is a column, too.
        others: The column of further labels that apply; None where there is one label alone.
        default: The label of a request for which the model says another one than those of the set;
            None where such an answer is unreadable.
    """

    column: str
    labels: tuple[str, ...]
    words: Mapping[str, str]
    are_levels: bool = False
    others: str | None = None
    default: str | None = None

    @property
    def unknown(self) -> str:
        """The column of labels that the set lacks."""
        return f"{self.column}_unknown"


SETS: Final[dict[str, LabelSet]] = {
    "task_category": LabelSet(
        "task_category",
        (
            "Information seeking", "Reasoning", "Planning", "Editing", "Coding & Debugging",
            "Math", "Role playing", "Data analysis", "Creative writing", "Advice seeking",
            "Brainstorming", "Others",
        ),
        {},
        others="other_task_categories",
    ),
    "difficulty": LabelSet(
        "difficulty",
        _LEVELS,
        {
            "intent": "what the user wants, in a sentence",
            "knowledge": "what one has to know to answer, in a sentence",
        },
        are_levels=True,
    ),
    "quality": LabelSet(
        "input_quality",
        _QUALITIES,
        {"quality_explanation": "what is strong and what is weak about the request"},
        are_levels=True,
    ),
    "safety": LabelSet(
        "safety",
        ("safe", "unsafe"),
        {"safety_explanation": "what might come of an answer, in a sentence"},
    ),
    "ability": LabelSet(
        "ability",
        (
            "programming and software development", "mathematical ability",
            "data science and analytics", "logic and reasoning", "analysis and research",
            "natural language processing and understanding",
            "information processing and integration", "problem solving and support",
            "open knowledge q&a", "creativity and design", "project and task management",
            "linguistic knowledge, multilingual and multicultural understanding",
            "education and consulting", "communication and social media", "task generation",
            "open task completion",
        ),
        {},
        others="other_abilities",
    ),
    "domain": LabelSet(
        "domain",
        (
            "stem knowledge", "humanities, history, philosophy, and sociology knowledge",
            "literary creation and artistic knowledge", "life knowledge and skills",
            "financial, financial and business knowledge",
            "medical, pharmaceutical and health knowledge", "psychological knowledge",
            "legal knowledge", "none",
        ),
        {},
        others="other_domains",
    ),
    "task_type": LabelSet(
        "task_type",
        (
            "question_generation", "story_generation", "poem_generation", "email_generation",
            "data_generation", "text_to_text_translation", "advice_giving", "recommendations",
            "how_to_generation", "planning", "code_correction", "code_simplification",
            "explain_code", "text_to_code_translation", "code_to_code_translation",
            "code_language_classification", "code_to_text_translation",
            "instructional_rewriting", "language_polishing", "paraphrasing", "text_correction",
            "information_extraction", "keywords_extraction", "table_extraction",
            "title_generation", "text_summarization", "note_summarization", "open_qa",
            "closed_qa", "fact_verification", "value_judgement", "roleplay", "explain_answer",
            "natural_language_learning_tutor", "language_learning_questions",
            "exam_problem_solving_tutor", "ml_ai_language_model_tutor", "math_puzzles",
            "fill_in_the_blank", "general_classification", "ordering", "sentiment_analysis",
            "language_classification", "topic_classification", "rejecting", "default",
        ),
        {},
        default="default",
    ),
}  # fmt: skip
"""The sets that a model is asked for."""
