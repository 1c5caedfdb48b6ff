"""Which language a text is written in, by py3langid (naive Bayes over byte n-grams)."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

NAMES: Final[dict[str, str]] = {
    "af": "Afrikaans", "am": "Amharic", "ar": "Arabic", "as": "Assamese", "az": "Azerbaijani",
    "be": "Belarusian", "bg": "Bulgarian", "bn": "Bengali", "bs": "Bosnian", "ca": "Catalan",
    "cs": "Czech", "cy": "Welsh", "da": "Danish", "de": "German", "el": "Greek", "en": "English",
    "eo": "Esperanto", "es": "Spanish", "et": "Estonian", "eu": "Basque", "fa": "Persian",
    "fi": "Finnish", "fr": "French", "ga": "Irish", "gl": "Galician", "gu": "Gujarati",
    "ha": "Hausa", "he": "Hebrew", "hi": "Hindi", "hr": "Croatian", "ht": "Haitian Creole",
    "hu": "Hungarian", "hy": "Armenian", "id": "Indonesian", "ig": "Igbo", "is": "Icelandic",
    "it": "Italian", "ja": "Japanese", "jv": "Javanese", "ka": "Georgian", "kk": "Kazakh",
    "km": "Khmer", "kn": "Kannada", "ko": "Korean", "ku": "Kurdish", "ky": "Kyrgyz",
    "la": "Latin", "lb": "Luxembourgish", "lo": "Lao", "lt": "Lithuanian", "lv": "Latvian",
    "mg": "Malagasy", "mk": "Macedonian", "ml": "Malayalam", "mn": "Mongolian", "mr": "Marathi",
    "ms": "Malay", "mt": "Maltese", "my": "Burmese", "ne": "Nepali", "nl": "Dutch",
    "no": "Norwegian", "or": "Odia", "pa": "Punjabi", "pl": "Polish", "ps": "Pashto",
    "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "rw": "Kinyarwanda", "si": "Sinhala",
    "sk": "Slovak", "sl": "Slovenian", "sn": "Shona", "so": "Somali", "sq": "Albanian",
    "sr": "Serbian", "st": "Sesotho", "sv": "Swedish", "sw": "Swahili", "ta": "Tamil",
    "te": "Telugu", "tg": "Tajik", "th": "Thai", "tk": "Turkmen", "tl": "Filipino",
    "tr": "Turkish", "tt": "Tatar", "ug": "Uyghur", "uk": "Ukrainian", "ur": "Urdu",
    "uz": "Uzbek", "vi": "Vietnamese", "xh": "Xhosa", "yo": "Yoruba", "zh": "Chinese",
    "zu": "Zulu",
}  # fmt: skip
"""Languages that can be written and identified, by their ISO 639 codes, with English names."""

MIN_LETTERS: Final = 20
"""In fewer letters a language is not identified."""


@cache
def identifier(candidates: tuple[str, ...] = ()) -> Any:
    """The identifier with scores that are probabilities; half a second to load.

    Args:
        candidates: The languages that it may say; empty: all that it knows.

    Example:
        >>> identifier().classify("Quel est le nom de cette ville ?")[0]
        'fr'
    """
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    model.set_languages(candidates or None)
    return model


def letters(text: str) -> int:
    """The number of letters of a text.

    Args:
        text: Any text.
    """
    return sum(character.isalpha() for character in text)


def language_of(text: str) -> str | None:
    """The code of the likeliest language of a text, among those that have names.

    Args:
        text: A text; one of fewer than 20 letters has none.

    Example:
        >>> language_of("Wie heißt die Hauptstadt von Frankreich?"), language_of("Oui.")
        ('de', None)
    """
    if letters(text) < MIN_LETTERS:
        return None
    return str(identifier((*NAMES,)).classify(text)[0])


def other_language(text: str, language: str, min_probability: float) -> dict[str, Any] | None:
    """Why a text is not held to be in a language; None where it is, or is too short to say.

    Args:
        text: A text.
        language: The code of the language, one of those with names.
        min_probability: The least probability of the language among all that have names.

    Returns:
        The likeliest language instead, and the probability of the one that was expected.
    """
    if letters(text) < MIN_LETTERS:
        return None
    ranked = dict(identifier((*NAMES,)).rank(text))
    if ranked[language] >= min_probability:
        return None
    best = max(ranked, key=lambda code: ranked[code])
    return {"language": best, "probability": round(float(ranked[language]), 4)}
