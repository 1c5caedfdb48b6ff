"""One constraint of each kind, with a text that follows it and one that does not."""

from __future__ import annotations

from typing import Any

WORDS = "The old mill stood by the river. Nobody had seen it run for years."

IFEVAL: dict[str, tuple[dict[str, Any], str, str]] = {
    "keywords:existence": ({"keywords": ["MILL", "river"]}, WORDS, "The old mill stood."),
    "keywords:frequency": (
        {"keyword": "mill", "frequency": 2, "relation": "less than"},
        WORDS,
        "Mills and mill.",
    ),
    "keywords:forbidden_words": ({"forbidden_words": ["rive", "sea"]}, WORDS, "The Sea, the sea"),
    "keywords:letter_frequency": (
        {"letter": "T", "let_frequency": 3, "let_relation": "at least"},
        "tatter",
        "tea for two",
    ),
    "language:response_language": (
        {"language": "de"},
        "Die alte Mühle stand am Fluss, und niemand hatte sie seit Jahren laufen sehen.",
        WORDS,
    ),
    "length_constraints:number_sentences": (
        {"num_sentences": 3, "relation": "less than"},
        WORDS,
        "One came. Two went. Three stayed.",
    ),
    "length_constraints:number_paragraphs": (
        {"num_paragraphs": 2},
        "***\nOne\n***\nTwo",
        "One\n***\n***\nTwo",
    ),
    "length_constraints:number_words": ({"num_words": 4}, "It's two o'clock", "It is two"),
    "length_constraints:nth_paragraph_first_word": (
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"},
        "First it rains.\n\n'then', it snows.",
        "Then it rains.\n\nFirst it snows.",
    ),
    "detectable_content:number_placeholders": (
        {"num_placeholders": 2},
        "Dear [name], see you on [date].",
        "Dear [name]",
    ),
    "detectable_content:postscript": (
        {"postscript_marker": "P.S."},
        "Yours.\np. s. Write soon.",
        "Yours. PS: write soon.",
    ),
    "detectable_format:number_bullet_lists": (
        {"num_bullets": 2},
        "Two:\n* one\n  - two",
        "**Two**:\n* one",
    ),
    "detectable_format:constrained_response": ({}, "My answer is no. Ever.", "my answer is no."),
    "detectable_format:number_highlighted_sections": (
        {"num_highlights": 2},
        "*One* and **two**",
        "*One* and * *",
    ),
    "detectable_format:multiple_sections": (
        {"section_spliter": "Part", "num_sections": 2},
        "Part 1\nIt rains.\nPart 2\nIt snows.",
        "Part one, Part 2",
    ),
    "detectable_format:json_format": ({}, '```json\n{"rain": 1}\n```', "{'rain': 1}"),
    "detectable_format:title": ({}, "<<Rain>>\nIt rains.", "<< >> It rains."),
    "combination:two_responses": ({}, "Rain.\n******\nSnow.", "Rain.\n******\nRain."),
    "combination:repeat_prompt": (
        {"prompt_to_repeat": "Does it rain?"},
        "does it rain? It does.",
        "It does. Does it rain?",
    ),
    "startend:end_checker": (
        {"end_phrase": "Any questions?"},
        '"It rains. any questions?"',
        "Any questions? None.",
    ),
    "startend:quotation": ({}, ' "It rains." ', '"It rains," he said'),
    "change_case:capital_word_frequency": (
        {"capital_frequency": 2, "capital_relation": "at least"},
        "It NEVER EVER rains.",
        "It NEVER rains.",
    ),
    "change_case:english_capital": ({}, WORDS.upper(), WORDS),
    "change_case:english_lowercase": ({}, WORDS.lower(), WORDS),
    "punctuation:no_comma": ({}, WORDS, "Rain, snow"),
}
