"""How answers refuse, moralise or say what they lack: phrases that begin a sentence.

Each pattern has one group, the phrase, which stands at the beginning of a sentence among the
first of the answer; no quotation or code is open where it begins. The English refusals
are those of `schemas.refusals` and these.
"""

from __future__ import annotations

from typing import Final

import polars as pl

from schemas.refusals import REFUSAL
from stages.tag.refusal.languages import APOLOGIES, OTHERS

OPENING: Final = 320
"""Characters of an answer in which a phrase begins: about three sentences."""

FURTHER: Final = 2000
"""Characters in which help beside a refusal is looked for."""

_UNQUOTED: Final = r"""(?xis) \A (?: \s* (?:
    [^\s"“„‘«「『`\#/']'? | /[^/*\s] | "[^"\n]*" | [“„][^”“]*[”“] | «[^»]*» | 「[^」]*」
    ) )*?
    (?: \A | [.!?:。！？…]['")»”]?\s* | \n\s* | [,;]\ (?:but|however),?\  )
    [\s*_]*
"""
"""What stands before a sentence that is no quotation, comment or code."""

_MACHINE: Final = r"""
    (?:as|i(?:'m|\ am))\ (?:just\ |only\ )?(?:an?\ )?(?:[a-z-]+\ ){0,3}
    (?:ai|model|assistant|program|machine)\b[^.!?\n]{0,40}?[,.]?\ """

_BEFORE: Final = rf"""
    (?:(?:(?:i'm|i\ am|we're)\ (?:[a-z]+\ )?)?(?:sorry|afraid)[,.!]?\ (?:but\ |that\ )?
        | (?:my\ )?apologies[,.!]?\ (?:but\ )? | i\ apologi[sz]e[,.]?\ (?:but\ )?
        | unfortunately,?\ | however,?\ | but\ | {_MACHINE} )*
"""

_CANNOT: Final = r"""
    (?:i|we)\ ?(?:can\ ?not|can't|will\ not|won't|could\ not|couldn't
        |(?:am|'m|are|'re)\ (?:not\ able|unable)\ to|(?:am|'m)\ not\ (?:comfortable|going\ to)
        |must\ (?:politely\ |respectfully\ )?decline|(?:have|need)\ to\ decline
        |(?:do\ not|don't)\ feel\ comfortable)"""

_ENGLISH: Final = rf"""
    {_CANNOT}\ ?(?:[a-z]+ly\ )?(?:to\ )?
    (?: provid|assist|help|answer|fulfil|comply|suggest|encourag|promot|endorse|support|offer|give
      | recommend|engag|condon|advis|creat|generat|discuss|shar(?:e|ing)\ (?:that|this|any|personal)
      | participat|respond|writ|satisfy|in\ good\ conscience|do\ (?:that|this|so)\b|with\ )[a-z]*
    | i\ (?:must|have\ to)\ (?:politely\ |respectfully\ )?(?:decline|refuse)\b
    | i\ (?:refuse|decline)\ to\b
    | i'm\ not\ able\ to\ provide\b
    | (?:this|that|your)\ (?:request|question)\ (?:goes\ against|violates)
    | it(?:\ is|'s)\ (?:against|not\ within)\ my\ (?:programming|guidelines|policy)
"""

_MORALISING: Final = r"""
    (?:i\ (?:do\ not|don't)\ (?:think|believe)\ (?:that\ )?it(?:'s|\ is|\ would\ be)
        | it(?:'s|\ is|\ would\ be)\ (?:not|never))\ (?:[a-z]+\ (?:or\ )?)?
        (?:appropriate|ethical|acceptable|respectful|fair|okay|responsible)\b
    | it\ is\ (?:unethical|inappropriate)\b
    | i\ (?:must|need\ to|have\ to|want\ to|would\ like\ to|strongly)
        \ (?:[a-z]+ly\ )?(?:(?:point\ out|address|clarify|emphasi[sz]e|remind\ you|note
            |inform\ you)\ that
            [^.!?\n]{0,160}?\b(?:harmful|unethical|illegal|inappropriate|offensive|problematic
                |appropriate|negative|violen[a-z]+|disrespectful|stereotyp[a-z]+
                    |discriminat[a-z]+)\b
          | advise\ against|condemn|disagree|challenge\ the\ assumption|caution\ against)
    | (?:the|your|this)\ (?:question|request|statement)\ (?:[a-z]+\ )?(?:contains|promotes
        |perpetuates|implies)
        [^.!?\n]{0,40}?\b(?:harmful|false|inaccurate|violen|discriminat|stereotyp|racis)[a-z]*
    | i\ (?:do\ not|don't)\ (?:condone|support|endorse)\b
    | (?:violence|discrimination|hate|hatred)\b[^.!?\n]{0,60}\ (?:is|are)\ never\b
"""

_CAPABILITY: Final = r"""
    i\ ?(?:do\ not|don't|cannot|can't|am\ unable\ to|am\ not\ able\ to|'m\ unable\ to
        |'m\ not\ able\ to)\ 
        (?:currently\ |directly\ |actually\ |physically\ )?
        (?: have\ (?:[a-z]+\ ){0,2}?access\b | access\b | browse\b
          | (?:have|hold|possess)\ (?:[a-z]+\ ){0,2}?(?:opinions?|feelings?|emotions?|beliefs?
              |preferences
            |experiences?|consciousness|bod(?:y|ies)|senses|eyes|ability\ to)\b
          | (?:see|hear|taste|smell|feel|open|view|remember|play|send|watch|listen)\b)
    | my\ (?:knowledge\ cut-?off|training\ data)\b
"""

_EPISTEMIC: Final = r"""
    i\ ?(?:do\ not|don't)\ know\b(?:\ (?:the\ (?:answer|exact)|for\ (?:sure|certain)|who|which
        |whether|anything\ about)\b
        |[.,!]|\z)
    | i(?:'m|\ am)\ not\ (?:sure|certain|aware\ of|familiar\ with)\b
    | i\ (?:do\ not|don't)\ have\ (?:[a-z]+\ ){0,2}?(?:information|knowledge|details|data)\b
    | i\ (?:could\ not|couldn't|cannot|can't)\ find\ any\ (?:information|record|evidence)
    | there\ (?:is|isn't|is\ not)\ (?:not\ )?(?:enough|sufficient|no)\ (?:information|context
        |data)\b
    | (?:it\ is|it's)\ (?:not\ known|unknown|unclear)\b
"""

SAFETY_NOTE: Final = r"""(?xi)(
    (?:please\ )?(?:always\ )?(?:consult|speak\ (?:to|with)|talk\ to|contact|seek)\ (?:with\ )?
        (?:(?:a|an|your|the\ advice\ of\ a)\ )?(?:[a-z]+\ ){0,2}?(?:doctor|physician
            |professional|lawyer
        |attorney|therapist|veterinarian|pharmacist|medical\ advice|medical\ attention|legal\ advice
        |emergency\ services|professional\ help)
    | not\ (?:a\ substitute\ for|intended\ as)\ (?:[a-z]+\ )?(?:professional|medical|legal
        |financial)
    | (?:disclaimer|warning|caution|safety\ note)\ ?:
    | it(?:'s|\ is)\ (?:important|crucial|essential)\ to\ (?:note|remember|prioriti[sz]e|ensure)
        [^.!?\n]{0,100}?\b(?:safety|illegal|dangerous|harmful|legal\ consequences)\b
)"""
"""A warning beside an answer, at its beginning or its end."""

_HELP: Final = r"""(?xi)
    (?:however|instead|but|that\ said|nevertheless)[,\s]\s*(?:[a-z]+,?\ ){0,6}?
        (?:i\ can\ |i'(?:d|ll)\ |i\ would\ be|here\ (?:are|is)|you\ (?:can|could|may|might)\ 
            |let\ me)
    | i\ can\ (?:offer|suggest|provide|give|share|tell|explain)\b
    | here\ (?:are|is)\ (?:some|a\ few|an?|general|several|the)\b
    | \n\s*1[.)]\ [^\n]+\n+\s*(?:[^\n]+\n+\s*)?2[.)]\ 
    | (?:stattdessen|aber)\ kann\ ich | (?:cependant|toutefois|mais),?\ (?:je\ peux|voici)
    | (?:sin\ embargo|pero),?\ (?:puedo|aquí) | (?:no\ entanto|mas),?\ posso
    | (?:tuttavia|ma),?\ posso | (?:wel|maar)\ kan\ ik | однако,?\ (?:я\ могу|вот)
    | (?:但是?|不过|不過)，?我?(?:可以|能)
    | (?:代わりに|ただし)[^。]{0,30}(?:できます|ます) | 대신|하지만[^.]{0,40}수\ 있
"""
"""Help that stands beside a refusal."""


def _sentence(phrases: str) -> str:
    return f"{_UNQUOTED}({phrases})"


ENGLISH: Final = {
    kind: _sentence(f"{_BEFORE}(?:{phrases})")
    for kind, phrases in {
        "refusal": _ENGLISH,
        "moralising": _MORALISING,
        "capability": _CAPABILITY,
        "epistemic": _EPISTEMIC,
    }.items()
}
"""The patterns of the kinds, in the order in which one goes before another."""

_GUARDS: Final = {
    ("de", "fr", "es", "pt", "it", "nl"): r"""(?xi)\b(?:ich|mir|als|je|j'ai|en\ tant|no|me|como|eu
        |não|recuso|non|mi|come|ik|weet)\b""",
    ("ru",): r"\p{Cyrillic}",
    ("zh", "ja"): r"[\p{Han}\p{Hiragana}]",
    ("ko",): r"\p{Hangul}",
}
"""Languages, and what a text has that may be of these: it saves most texts their patterns."""


def _foreign(kind: str) -> list[tuple[str, str]]:
    """For each group of languages what a text must have, and the pattern of the kind."""
    phrases = OTHERS.get(kind, {})
    return [
        (guard, _sentence(f"{APOLOGIES}*(?:{'|'.join(phrases[code] for code in codes)})"))
        for codes, guard in _GUARDS.items()
        if phrases
    ]


def _phrase(kind: str) -> pl.Expr:
    """The phrase of a kind that a text has, in whatever language; null without one."""
    text = pl.col("text")
    of_others = [
        pl.when(text.str.contains(guard)).then(text).str.extract(pattern, 1)
        for guard, pattern in _foreign(kind)
    ]
    return pl.coalesce(text.str.extract(ENGLISH[kind], 1), *of_others)


def _of_language(language: str) -> str:
    known = (phrases[language] for phrases in OTHERS.values())
    return f"(?xi){APOLOGIES}*(?:{'|'.join(known)})"


_LANGUAGES: Final = {language: _of_language(language) for language in OTHERS["refusal"]}


def fold(texts: pl.Series) -> pl.Series:
    """Typographic apostrophes as straight ones; each character stays where it is."""
    return texts.str.replace_all("[’ʼ＇]", "'")


def tag_phrases(answers: pl.Series) -> pl.DataFrame:
    """What each answer is, by its phrases.

    Args:
        answers: Texts of answers.

    Returns:
        `kind`, and where that is not "none" the `phrase`, its `language` and its `start`.

    >>> answers = pl.Series(["I’m sorry, but I can’t help with that.", "Stir it well."])
    >>> tag_phrases(answers).rows()
    [('refusal', "I'm sorry, but I can't help", 'en', 0), ('none', None, None, None)]
    """
    opening = fold(answers.str.head(OPENING))
    frame = pl.DataFrame({"text": opening})
    phrases = {kind: _phrase(kind) for kind in ENGLISH}
    # The narrow phrases of `generate.respond` know verbs that only an opening may have.
    narrow = pl.col("text").str.contains(_BARE_OPENING) & ~phrases["capability"].is_not_null()
    opened = pl.when(narrow).then(pl.col("text").str.extract(f"({REFUSAL})", 1).str.strip_chars())
    phrases["refusal"] = pl.coalesce(phrases["refusal"], opened)
    matched = frame.select(**phrases)
    warned = _safety_notes(answers, matched)
    kinds = [*ENGLISH, "safety_note"]
    matched = matched.with_columns(warned.alias("safety_note"))
    named = [pl.when(pl.col(kind).is_not_null()).then(pl.lit(kind)) for kind in kinds]
    result = matched.select(kind=pl.coalesce(*named, pl.lit("none")), phrase=pl.coalesce(*kinds))
    refuses = result["kind"] == "refusal"
    helps = fold(answers.set(~refuses, None).str.head(FURTHER)).str.contains(_HELP).fill_null(False)
    kind = pl.when(helps).then(pl.lit("partial")).otherwise("kind")
    return _placed(answers, result.with_columns(kind=kind))


_BARE_OPENING: Final = r"\A[\s*_]*\w"
"""Neither a quotation mark nor a comment's mark begins the answer."""


def _safety_notes(answers: pl.Series, matched: pl.DataFrame) -> pl.Series:
    """The warnings at the beginning and the end of answers that are of no other kind."""
    is_plain = matched.select(pl.all_horizontal(pl.all().is_null())).to_series()
    ends = (answers.str.head(OPENING) + "\n" + answers.str.tail(OPENING)).set(~is_plain, None)
    return fold(ends).str.extract(SAFETY_NOTE, 1)


def _placed(answers: pl.Series, result: pl.DataFrame) -> pl.DataFrame:
    """Adds where each phrase stands, in characters, and its language."""
    positions = result["phrase"].is_not_null().arg_true()
    phrases = result["phrase"].gather(positions)
    texts = fold(answers.gather(positions))
    starts = [text.find(phrase) for text, phrase in zip(texts, phrases, strict=True)]
    language = pl.coalesce(
        *(
            pl.when(pl.col("phrase").str.contains(own)).then(pl.lit(code))
            for code, own in _LANGUAGES.items()
        ),
        pl.lit("en"),
    )
    named = pl.DataFrame({"phrase": phrases}).select(language.alias("language"))["language"]
    empty = pl.repeat(None, len(answers), dtype=pl.String, eager=True)
    nowhere = pl.repeat(None, len(answers), dtype=pl.Int32, eager=True)
    return result.with_columns(
        language=empty.scatter(positions, named),
        start=nowhere.scatter(positions, pl.Series(starts, dtype=pl.Int32)),
    )
