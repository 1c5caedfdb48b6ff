"""The names that FollowRAG's files give to kinds of IFEval; their arguments are the same.

FollowRAG: Toward General Instruction-Following Alignment for Retrieval-Augmented Generation (Dong
et al. 2024, arXiv:2410.09584; dongguanting/FollowRAG).
"""

from __future__ import annotations

from typing import Final

NAMES: Final = {
    "cases_lowercase": "change_case:english_lowercase",
    "cases_uppercase": "change_case:english_capital",
    "format_json": "detectable_format:json_format",
    "format_language": "language:response_language",
    "format_no_commas": "punctuation:no_comma",
    "format_quotation": "startend:quotation",
    "format_repeat_question": "combination:repeat_prompt",
    "keywords_exclusion": "keywords:forbidden_words",
    "keywords_frequency": "keywords:frequency",
    "keywords_inclusion": "keywords:existence",
    "length_paragraph": "length_constraints:number_paragraphs",
    "length_sentence": "length_constraints:number_sentences",
    "length_words": "length_constraints:number_words",
    "position_end_with": "startend:end_checker",
    "position_first_word": "length_constraints:nth_paragraph_first_word",
    "position_postscript": "detectable_content:postscript",
    "structure_bullets": "detectable_format:number_bullet_lists",
    "structure_highlights": "detectable_format:number_highlighted_sections",
    "structure_placeholder": "detectable_content:number_placeholders",
    "structure_sections": "detectable_format:multiple_sections",
    "structure_title": "detectable_format:title",
}
