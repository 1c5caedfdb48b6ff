"""Short answers as values: many spellings of one number are equal, others are not."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages._text.answers import equal, number

SAME = [
    ["1000", "1,000", "1000.0", "1e3", "1000.", "+1000", "10^3", r"10^{3}", "x = 1000", r"$1000$"],
    ["1/2", "0.5", ".5", r"\frac{1}{2}", r"\dfrac12", r"$\tfrac{1}{2}$", r"\boxed{\frac12}", "50%"],
    ["-3", "−3", "- 3", r"$-3$", "-6/2"],
    ["2 1/2", "2.5", "5/2", "250%"],
    ["$18", "18 dollars", r"\$18", "$18.00", r"$\$18$", "18"],
    ["60%", r"60\%", "60 percent", "60"],
    ["3 × 10^4", r"3 \times 10^4", "3*10^4", "30,000"],
    ["12 km", "12", r"12\text{ km}"],
]  # fmt: skip


@pytest.mark.parametrize("spellings", SAME, ids=[group[0] for group in SAME])
def test_spellings_of_one_number(spellings: list[str]) -> None:
    for answer in spellings:
        assert equal(answer, spellings[0]) is True, answer
        assert equal(spellings[0], answer) is True, answer


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("18", "19"),
        ("1,000", "1.000"),
        ("0.5", "5"),
        ("18 km", "18 m"),
        ("$18", "€18"),
        ("1/3", "0.333"),
        ("-3", "3"),
        ("B", "A"),
        ("(B) as A says", "A"),
        ("no", "yes"),
        ("False.", "true"),
        (r"\sqrt{2}", r"\sqrt{3}"),
        ("60%", "0.06"),
    ],
)
def test_different_answers(answer: str, gold: str) -> None:
    assert equal(answer, gold) is False


@pytest.mark.parametrize(
    ("answer", "gold"),
    [("Apples", "A"), ("I", "9"), ("3 or 4", "3"), ("who knows", "no"), ("1/0", "1"), ("", "x"),
     ("Above all", "A"), ("5", "B"), ("nothing", "no"), ("1:30", "1"), ("x", ""), ("3*4", "34")],
)  # fmt: skip
def test_what_cannot_be_read_is_no_wrong_answer(answer: str, gold: str) -> None:
    assert equal(answer, gold) is None


@pytest.mark.parametrize(
    ("answer", "gold"),
    [("(A)", "A"), ("a) Paris", "A"), ("B.", "(B)"), ("Option C", "C"), (r"\text{(D)}", "D"),
     ("Yes, it is.", "yes"), ("**No**", "no"), ("true", "True"), ("The Nile", "the nile."),
     (r"$x^2 + 1$", "x^2+1"), ("北京。", "北京")],
)  # fmt: skip
def test_choices_words_and_texts(answer: str, gold: str) -> None:
    assert equal(answer, gold) is True


ALGEBRA = [
    "2n+1", "2n", "2x", "2 x", "2i", "2 xy", "2x^2", "2 pi", "2π", "2 sin x", "2!", "2 n!", "2 + n",
    "2 is wrong", "2 or more", "2 million", "2 dozen", "2 squared", "2km+1", "2 cm or so", "2x km",
    "2 (of 3)", "2%x", "2/1x", "2^n", "2_3", "2 times n", r"2\sqrt{3}", "2km^x",
]  # fmt: skip


@pytest.mark.parametrize("text", ALGEBRA)
def test_what_is_no_unit_makes_no_number(text: str) -> None:
    assert number(text) is None
    assert equal(text, "2") is None
    assert equal("2", text) is False
    assert equal(text, text) is True


@given(
    st.integers(0, 999),
    st.sampled_from("abcdfijknopqrtuxyz"),  # 2e+1 is a number
    st.sampled_from(
        ["{0}{1}", "{0} {1}", "{0}{1}^2", "{0}{1}+1", "{0}{1}!", "-{0}{1}", "{0}/2{1}"]
    ),
)
def test_a_multiple_of_a_variable_is_no_number(value: int, name: str, form: str) -> None:
    text = form.format(value, name)
    assert number(text) is None
    assert equal(str(value), text) is not True


@pytest.mark.parametrize(
    "unit",
    ["km", " km", " red apples", " miles per hour", " km/h", "km/h", " m/s^2", " cm²", r"^\circ",
     "°C", " o'clock", " p.m.", "pm", "th", "个", " 个", " dollars a day", " sq. ft.",
     " cups of tea", " US dollars", "€", " kilowatt-hours", r"\text{ cm}^2", " किमी", " km."],
)  # fmt: skip
def test_a_unit_leaves_the_number(unit: str) -> None:
    assert equal(f"18{unit}", "18") is True
    assert equal("18", f"18{unit}") is True
    assert equal(f"18{unit}", f"18{unit}") is True
    assert equal(f"19{unit}", f"18{unit}") is False


def test_a_factorial_is_no_mark_of_a_sentence() -> None:
    assert equal("5", "5!") is False
    assert equal("5!", "5!") is True
    assert equal("Paris!", "paris") is True


@pytest.mark.parametrize(
    ("answer", "gold"),
    [("(B) or (C)", "B"), ("(B) and (C)", "C"), ("B) or C", "B"), ("(A), (B)", "A"),
     ("(A)/(B)", "A"), ("Yes and no", "yes"), ("No one knows", "no"), ("No. 5", "no"),
     ("Yes, and no.", "yes"), ("yes/no", "yes"), ("Yes or no?", "yes"), ("True or false", "true"),
     ("No-one", "no"), ("No idea", "no"), ("True love", "true"), ("Yes. No.", "yes")],
)  # fmt: skip
def test_of_two_answers_none_is_taken(answer: str, gold: str) -> None:
    assert equal(answer, gold) is None


@pytest.mark.parametrize(
    ("answer", "gold"),
    [("(B) Paris and a dog", "B"), ("(B) or (B)", "B"), ("(B) Washington D.C.", "B"),
     ("(C) f(a)", "C"), ("Yes it is", "yes"), ("No, that is not true.", "no"), ("No - never", "no"),
     ("**Yes**, it is", "yes"), ("Yes, no doubt", "yes"), ("True because it is so", "true")],
)  # fmt: skip
def test_what_else_follows_a_choice_or_a_word_is_left_out(answer: str, gold: str) -> None:
    assert equal(answer, gold) is True


@given(st.fractions(-(10**6), 10**6, max_denominator=1000))
def test_numbers_are_exact(value: Fraction) -> None:
    for text in (
        f"{value.numerator}/{value.denominator}",
        f"${value.numerator}/{value.denominator}$",
    ):
        result = number(text)
        assert result is not None
        assert result.value == value
    assert equal(f"{value.numerator:,}", str(value.numerator)) is True


@given(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9))
def test_numbers_are_equal_if_their_values_are(a: int, b: int) -> None:
    assert equal(f"{a:,}", str(b)) is (a == b)


def test_tolerance_is_relative() -> None:
    assert equal("3.14", "3.14159", tolerance=0.001) is True
    assert equal("3.14", "3.14159") is False
    assert equal("0", "0.0001", tolerance=0.001) is False
