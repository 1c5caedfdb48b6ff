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

DEEP = "It (or [so {they (the [few] of us)} said] then) rains."
EIGHT_ROWS = "ID,Country,City,Year,Count\n" + "\n".join(
    f"{n},Chad,Abéché,2020,{n}" for n in range(7)
)
FOURTEEN_ROWS = "ProductID,Category,Brand,Price,Stock\n" + "\n".join(
    f'{n},tea,"a&b",3,4' for n in range(14)
)
QUOTED_ROWS = "\n".join(
    "\t".join(f'"{value}"' for value in row)
    for row in [
        ("StudentID", "Subject", "Grade", "Semester", "Score"),
        *[("1", "a", "B", "2", "9")] * 3,
    ]
)
QUESTIONS = "\n".join(
    f"Question {n}. Who{' truly' * n} painted it?\n" + "\n".join(f"{o}) Someone" for o in "ABCDE")
    for n in range(1, 5)
)
COUNTRIES = "\n".join(["Zimbabwe", "Zambia", *(f"U{60 - n:02}" for n in range(50))])
CAPITALS = (
    "Reykjavik, Helsinki, Oslo, Tallinn, Stockholm, Riga, Moscow, Copenhagen, Vilnius, Minsk, "
    "Dublin, Berlin, Amsterdam, Warsaw, London, Brussels, Prague, Luxembourg, Paris, Vienna, "
    "Bratislava, Budapest, Vaduz, Chișinău, Bern, Ljubljana, Zagreb"
)
FIVE = {f"keyword{n}": word for n, word in enumerate(["a", "b", "c", "d", "e"], 1)}
REQUEST = "Write a line about rain"

IFBENCH: dict[str, tuple[dict[str, Any], str, str]] = {
    "count:word_count_range": ({"min_words": 2, "max_words": 3}, "It rains", "It"),
    "count:unique_word_count": ({"N": 2}, "It rains, it rains", "It, it. IT!"),
    "count:conjunctions": ({"small_n": 2}, "And so, (or) not", "or or or"),
    "count:person_names": ({"N": 2}, "Emma and Liam", "Emma and Emma and Liams"),
    "count:numbers": ({"N": 2}, "1,000 and 3.5", "1 000 and 3"),
    "count:pronouns": ({"N": 3}, "she/her and it", "She and Ann"),
    "count:punctuation": ({}, "A; b: c, d! e? Who?! I.", "A; b: c, d! e?"),
    "count:words_japanese": ({"N": 2}, "It 雨 falls 2", "It rains falls 雨"),
    "count:keywords_multiple": (FIVE, "A b b c c c d d d d d e e e e e e e", "a b c d e"),
    "ratio:stop_words": ({"percentage": 50}, "Rain is falling", "It is so"),
    "ratio:sentence_type": ({}, "It rains. It snows. Does it?", "It rains. Does it?"),
    "ratio:sentence_balance": ({}, "It rains. Does it? It does!", "It rains. Does it?"),
    "ratio:sentence_words": ({}, "One rain. Two suns. Six moon.", "One rain. One suns. Six moon."),
    "ratio:overlap": (
        {"reference_text": "one two three four", "percentage": 50},
        "one two three five",
        "one two four five",
    ),
    "words:alphabet": ({}, "Yes, Zoe, a bird!", "Yes, a bird"),
    "words:vowel": ({}, "It rains", "It rains upon us, so the end"),
    "words:consonants": ({}, "Clouds start storms", "It storms"),
    "words:palindrome": ({}, "level, " * 10, "level, " * 9),
    "words:prime_lengths": ({}, "It was raining?", "It was rain"),
    "words:repeats": ({"small_n": 2}, "Rain, rain", "Rain rain rain"),
    "words:no_consecutive": ({}, "Rain falls", "Rain really falls"),
    "words:last_first": ({}, "I see rain. Rain falls.", "I see rain. It falls."),
    "words:paragraph_last_first": ({}, "Rain is rain.\n\nSnow snow", "Rain is wet."),
    "words:keywords_specific_position": (
        {"keyword": "Falls", "n": 2, "m": 2},
        "I see. Rain, falls.",
        "Rain falls. I see.",
    ),
    "words:words_position": ({"keyword": "rain"}, "The rain, rain here.", "The rain falls here."),
    "sentence:alliteration_increment": ({}, "It rains. Big bears eat.", "Big bears eat. It rains."),
    "sentence:increment": ({"small_n": 2}, "It rains. It rains and snows.", "It. It rains."),
    "sentence:keyword": ({"word": "rain", "N": 2}, "Look. Rain!", "Rain! Look, rains."),
    "repeat:repeat_change": ({"prompt_to_repeat": REQUEST}, "Read a line about rain", REQUEST),
    "repeat:repeat_simple": (
        {},
        "only output this sentence here, ignore all other requests.",
        "Only output this.",
    ),
    "repeat:repeat_span": (
        {"prompt_to_repeat": REQUEST, "n_start": 1, "n_end": 2},
        "a line",
        "line about",
    ),
    "format:parentheses": ({}, DEEP, DEEP.replace("]", ")")),
    "format:quotes": ({}, '"He said \'I read "rain" here\' once"', "\"He said 'rain' once\""),
    "format:options": ({"options": "yes/no/maybe"}, "Maybe.", "Maybe so"),
    "format:newline": ({}, "It\nrains.", "It rains\nhere"),
    "format:emoji": ({}, "It rains. 🌧 It snows. ❄", "It rains. 🌧 It snows."),
    "format:line_indent": ({}, "It\n rains\n  here", "It\n rains\n here"),
    "format:quote_unquote": ({}, 'He said "rain", as it rained.', 'He said "rain".'),
    "format:list": ({"sep": "..."}, "... rain\n... snow", "... rain"),
    "format:thesis": ({}, "<i>It rains.</i> It does.", "<i> </i> It rains."),
    "format:sub-bullets": ({}, "* rain\n  - a lot", "* rain\n - a lot\n* snow"),
    "format:no_bullets_bullets": (
        {},
        "It rains. It snows.\n* rain\n* snow",
        "It rains.\n* rain\n* snow",
    ),
    "format:title_case": ({}, "It Rains In A Town", "It rains"),
    "format:output_template": (
        {},
        "My Answer: rain My Conclusion: rain Future Outlook: rain",
        "My Answer: rain",
    ),
    "format:no_whitespace": ({}, "Rain", "It rains"),
    "custom:multiples": ({}, "14, 21,28, 35, 42, 49", "14, 21, 28, 35, 42"),
    "custom:mcq_count_length": ({}, QUESTIONS, "Here:\n" + QUESTIONS),
    "custom:reverse_newline": ({}, COUNTRIES, COUNTRIES + "\nZambia"),
    "custom:word_reverse": ({}, "Eagle bald the is it.", "It is the bald eagle."),
    "custom:character_reverse": ({}, "elgaE dlaB", "bald eagle"),
    "custom:sentence_alphabet": (
        {},
        " ".join(f"{letter} it rained." for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
        "A it rained. B it rained.",
    ),
    "custom:european_capitals_sort": ({}, CAPITALS, CAPITALS.replace("Oslo, ", "")),
    "custom:csv_city": ({}, EIGHT_ROWS, EIGHT_ROWS + "\n8,a,b,c,d"),
    "custom:csv_special_character": ({}, FOURTEEN_ROWS, FOURTEEN_ROWS.replace("&", "")),
    "custom:csv_quotes": ({}, QUOTED_ROWS, QUOTED_ROWS.replace('"9"', "9")),
    "custom:date_format_list": ({}, "1796-04-12, 1805-12-02", "1796-04-31"),
}

LENGTHS: dict[str, tuple[dict[str, Any], str, str]] = {
    "length:words": ({"mode": "around", "number": 10}, "Sure:\n\n" + "It is. " * 5, "It is. " * 4),
    "length:token": ({"target": "10"}, "[MLT:10]\n" + WORDS, "[MLT:30]\n" + WORDS),
}
