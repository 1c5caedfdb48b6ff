"""score.execution: what is right passes, in whatever form; what cannot be judged is null.

That nothing else passes is in `tests/stages/_sandbox/test_breakouts.py`.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any, Final

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pipeline.context import Context
from pipeline.errors import UserError
from stages._sandbox import isolation as isolation_module
from stages._sandbox.blocks import program_of
from stages._sandbox.cases import cases_of
from stages.score.execution import execution
from stages.score.execution.answer import Answer
from stages.score.execution.checkers import Checkers
from stages.score.execution.program import Program
from stages.score.execution.unit_tests import Tests
from stages.select.response import response as select_response
from tests.support.isolating import any_isolation
from tests.support.options import problems
from tests.support.rows import DATA, json_lines

CTX: Final = Context(Path(), Path(), Path())
ADD: Final = "```python\ndef add(a, b):\n    return a + b\n```"


def rows(answers: list[str | None], **columns: Any) -> pl.DataFrame:
    """Rows with these answers, and columns: a list, or one value of all."""
    messages = [
        [{"role": "user", "content": "Do it."}]
        + ([{"role": "assistant", "content": answer}] if answer is not None else [])
        for answer in answers
    ]
    frame = pl.DataFrame({"id": [f"{n:03}" for n in range(len(answers))], "messages": messages})
    return frame.with_columns(
        pl.Series(name, value if isinstance(value, list) else [value] * len(answers))
        for name, value in columns.items()
    )


def outcomes(frame: pl.DataFrame, method: Any) -> list[str | None]:
    """The outcome of each row."""
    return execution(CTX, frame, method=method)["execution_outcome"].to_list()


# --- unit tests


TESTS: Final = {
    "asserts": "assert add(1, 2) == 3\nassert 4 == add(2, 2), 'no'\nassert add(1, 1) in (2, 3)",
    "functions": (
        "def test_a():\n    x = add(1, 2)\n    assert x == 3\n"
        "def test_b():\n    assert add(0, 0) is 0"
    ),
    "functions that are called": "def test_a():\n    assert add(1, 2) == 3\ntest_a()",
    "unittest": (
        "import unittest\nclass TestAdd(unittest.TestCase):\n"
        "    @classmethod\n    def setUpClass(cls):\n        cls.one = 1\n"
        "    def setUp(self):\n        self.two = 2\n"
        "    def test_a(self):\n        self.assertEqual(add(self.one, self.two), 3)\n"
        "    def test_b(self):\n        with self.assertRaises(TypeError):\n"
        "            add(1)\n        self.assertAlmostEqual(add(0.1, 0.2), 0.3)\n"
        "if __name__ == '__main__':\n    unittest.main()"
    ),
    "a loop": "for a, b in [(1, 2), (3, 4)]:\n    assert add(a, b) == a + b",
    "imports of the solution": "from solution import add as plus\nassert plus(1, 2) == 3",
    "what is set up": (
        "import math\nTWO = 2\ndef double(x):\n    return add(x, x)\nassert double(TWO) == 4"
    ),
    "floats": (
        "assert abs(add(0.1, 0.2) - 0.3) < 1e-9\nimport math\n"
        "assert math.isclose(add(.1, .2), .3)"
    ),
    "containers": "assert [add(1, 1), {'a': (add(1, 2),)}] == [2, {'a': (3,)}]",
    "exceptions": "try:\n    add('a', 1)\n    assert False\nexcept TypeError:\n    pass",
    "all": "assert all(add(n, n) == 2 * n for n in range(5))",
    "libraries": (
        "from fractions import Fraction as F\nfrom decimal import Decimal\n"
        "from datetime import date, timedelta\nassert add(F(1, 2), F(1, 2)) == F(1)\n"
        "assert add(F(1, 2), 0) == 0.5\nassert add(Decimal('0.5'), 1) == 1.5\n"
        "assert add(date(2020, 1, 1), timedelta(1)) == date(2020, 1, 2)"
    ),
    "a list of functions of one name": json.dumps([
        "def test():\n    assert add(1, 2) == 3", "def test():\n    assert add(2, 2) == 4"
    ]),
    "a class of pytest's": (
        "class TestAdd:\n    def setup_method(self):\n        self.two = 2\n"
        "    def test_a(self):\n        assert add(1, self.two) == 3\n"
        "    def no_test(self):\n        assert False"
    ),
    "an indirect TestCase": (
        "import unittest\nclass Base(unittest.TestCase):\n    one = 1\n"
        "    def test_base(self):\n        self.assertEqual(add(self.one, 2), 1 + 2)\n"
        "class T(Base):\n    def test_own(self):\n        assert add(1, 1) == 2"
    ),
    "a mixin": (
        "from unittest import TestCase\nclass Mixin:\n    def test_a(self):\n"
        "        self.assertEqual(add(1, 2), 3)\nclass T(Mixin, TestCase):\n    pass"
    ),
    "coroutines": "async def test_a():\n    assert add(1, 2) == 3",
    "coroutines of unittest": (
        "import unittest\nclass T(unittest.IsolatedAsyncioTestCase):\n"
        "    async def test_a(self):\n        self.assertEqual(add(1, 2), 3)"
    ),
    "coroutines that are run": (
        "import asyncio\nasync def main():\n    assert add(1, 2) == 3\nasyncio.run(main())"
    ),
    "a main guard": "if __name__ == '__main__':\n    assert add(1, 2) == 3\n    print('passed')",
    "functions of a main guard": (
        "def run_tests():\n    assert add(1, 2) == 3\nif '__main__' == __name__:\n    run_tests()"
    ),
    "tests that main calls": (
        "def test_a():\n    assert add(1, 2) == 3\ndef main():\n    test_a()\n    print('passed')\n"
        "if __name__ == '__main__':\n    main()"
    ),
    "a list of tests that are called": (
        "def test_a():\n    assert add(1, 2) == 3\nfor test in [test_a]:\n    test()"
    ),
    "a function within a test": (
        "def test_a():\n    def check(a):\n        assert add(a, 2) == a + 2\n    check(1)"
    ),
    "functions that are called under any name": (
        "def run_tests():\n    assert add(1, 2) == 3\nrun_tests()"
    ),
    "functions with arguments": (
        "def verify(function, a):\n    assert function(a, 2) == a + 2\nverify(add, 1)"
    ),
    "check without an entry point": (
        "def check(candidate):\n    assert candidate(1, 2) == 3\ncheck(add)"
    ),
    "helpers below": (
        "def test_a():\n    assert three(2) == 3\ndef three(x):\n    return add(1, x)"
    ),
    "constants below": (
        "import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n"
        "        self.assertEqual(add(1, TWO), 3)\nTWO = 2"
    ),
    "a list": json.dumps(["assert add(1, 2) == 3", "assert add(2, 2) == 4"]),
}  # fmt: skip


def test_a_right_program_passes_all_forms_of_tests() -> None:
    any_isolation()
    frame = rows([ADD] * len(TESTS), tests=[*TESTS.values()])
    assert dict(zip(TESTS, outcomes(frame, Tests()), strict=True)) == dict.fromkeys(TESTS, "pass")


def test_a_wrong_program_fails_all_forms_of_tests() -> None:
    any_isolation()
    wrong = ADD.replace("a + b", "a + b if a == b == 0 else [a, b]")
    frame = rows([wrong] * len(TESTS), tests=[*TESTS.values()])
    assert not [n for n, o in zip(TESTS, outcomes(frame, Tests()), strict=True) if o == "pass"]


@pytest.mark.parametrize(
    "tests",
    [
        "def run_tests():\n    assert add(1, 2) == 3",
        "async def main():\n    assert add(1, 2) == 3\nmain()",
        "class Checks:\n    def test_a(self):\n        assert add(1, 2) == 3",
        "class TestAdd:\n    def __init__(self): pass\n    def test_a(self):\n        assert 0",
        "def test_a():\n    def inner():\n        assert add(1, 2) == 3",
        "def test_a():\n    yield\n    assert add(1, 2) == 3",
        "def test_a():\n    pass",
        "if True:\n    def test_a():\n        assert add(1, 2) == 3",
        "check = lambda: [x for x in [add] if x(1, 2) == 3]",
        "def fixture(a):\n    assert a\n    return a\nONE = fixture(1)",
    ],
)
def test_what_merely_defines_an_assertion_is_no_case(tests: str) -> None:
    assert cases_of(tests, None) is None
    cases = cases_of(f"{tests}\nassert add(1, 1) == 2", None)
    assert cases is not None
    assert len(cases.numbers) == 1


PYTEST: Final = (
    "import pytest\n@pytest.mark.parametrize('a, b', [(1, 2), pytest.param(3, 4)])\n"
    "@pytest.mark.parametrize('c', [0, 1])\n"
    "def test_add(a, b, c):\n    assert add(a, b) + c == a + b + c\n"
    "class TestMore:\n    @pytest.mark.parametrize('a', [3])\n    def test_add(self, a):\n"
    "        assert add(a, 1) == a + 1\n"
    "@pytest.mark.asyncio\nasync def test_coroutine():\n    assert add(1, 2) == 3\n"
    "def test_raises():\n    with pytest.raises(TypeError):\n        add(1)\n"
    "    assert add(0.1, 0.2) == pytest.approx(0.3)"
)


def test_tests_of_pytest() -> None:
    any_isolation()
    answers = [ADD, ADD.replace("a + b", "a + b + (a == 3)")]
    method = Tests(packages=True, memory_mb=2048)
    result = execution(CTX, rows(answers, tests=PYTEST), method=method)
    assert result["execution_outcome"].to_list() == ["pass", "fail"]
    assert result["execution_pass_rate"].to_list() == [1.0, 0.5]
    assert result["execution_ran"].to_list() == [4, 4]


@pytest.mark.parametrize(
    ("decorator", "arguments", "body"),
    [
        ("'p', [(1, 2), (2, 3)]", "p", "assert add(p[0], 1) == p[1]"),
        ("'p', [pytest.param((1, 2))]", "p", "assert add(p[0], 1) == p[1]"),
        ("'p', [{'a': 1}, {'a': 2}]", "p", "assert add(p['a'], 1) == p['a'] + 1"),
        ("['p'], [(1,), [2]]", "p", "assert add(p, 1) == p + 1"),
        ("'p,q', [[1, 2]]", "p, q", "assert add(p, 1) == q"),
        ("argnames='p', argvalues=[1, 2]", "p", "assert add(p, 1) == p + 1"),
        ("'p', [1, pytest.param(2, marks=pytest.mark.xfail)]", "p", "assert add(p, 1) == 2"),
    ],
)
def test_sets_of_arguments_are_those_of_pytest(decorator: str, arguments: str, body: str) -> None:
    any_isolation()
    mark = f"@pytest.mark.parametrize({decorator})"
    tests = f"import pytest\n{mark}\ndef test_add({arguments}):\n    {body}"
    frame = rows([ADD, ADD.replace("a + b", "a - b")], tests=tests)
    assert outcomes(frame, Tests(packages=True, memory_mb=2048)) == ["pass", "fail"]


def test_a_test_without_sets_of_arguments_is_no_case() -> None:
    any_isolation()
    test = "@pytest.mark.parametrize('p', {})\ndef test_add(p):\n    assert add(p, 1) == p + 1"
    assert cases_of(f"import pytest\n{test.format([])}", None) is None
    frame = rows([ADD], tests=f"import pytest\n{test.format('list()')}")
    assert outcomes(frame, Tests(packages=True, memory_mb=2048)) == ["error"]


@pytest.mark.parametrize(
    "result", ["range(5)", "iter([3])", "{3: 4}.keys()", "{4: 3}.values()", "'3'", "{3: 4}", "{3}"]
)
def test_membership_is_asked_where_the_container_is(result: str) -> None:
    any_isolation()
    item = repr("3") if result == "'3'" else "3"
    answers = [f"```python\ndef f():\n    return {value}\n```" for value in (result, "'x'")]
    tests = f"assert {item} in f()\ndef test_not():\n    assert 'y' not in list(f())"
    assert outcomes(rows(answers, tests=tests), Tests()) == [
        "pass",
        "error" if item == "3" else "fail",
    ]
    anything = "class Any:\n    def __eq__(self, other): return True\ndef f(): return Any()"
    frame = rows([f"```python\n{anything}\n```"], tests="assert 3 in [f()]")
    assert outcomes(frame, Tests()) == ["fail"]
    sure = cases_of("assert f() in (1, 2)", None)
    assert sure is not None
    assert sure.checks[0]


def test_the_canonical_solutions_of_humaneval_pass_and_others_do_not() -> None:
    any_isolation()
    problems_ = json_lines(DATA / "benchmarks/HumanEval.jsonl.gz")[:30]
    right = [f"```python\n{p['prompt']}{p['canonical_solution']}\n```" for p in problems_]
    wrong = [f"```python\n{p['prompt']}    return None\n```" for p in problems_]
    columns = {
        "tests": [p["test"] for p in problems_] * 2,
        "extra": [json.dumps({"entry_point": p["entry_point"]}) for p in problems_] * 2,
    }
    method = Tests(entry_point="extra.entry_point")
    result = outcomes(rows(right + wrong, **columns), method)
    assert result[:30] == ["pass"] * 30
    assert set(result[30:]) <= {"fail", "error"}


def test_cases_that_ran_are_counted_beside_those_that_did_not() -> None:
    any_isolation()
    program = "```python\ndef f(n):\n    while n == 3: pass\n    return 7 if n == 2 else n\n```"
    tests = "\n".join(f"assert f({n}) == {n}" for n in range(1, 6))
    result = execution(CTX, rows([program], tests=tests), method=Tests(timeout=2))
    assert result.row(0) == ("timeout", 0.2, 1, 2, 3, "it ran longer than 2 s")
    raising = program.replace("while n == 3: pass", "assert n != 3 or 1 / 0")
    result = execution(CTX, rows([raising], tests=tests), method=Tests())
    assert result.row(0) == ("fail", 0.6, 3, 5, 0, "assert f(2) == 2: got 7")


def test_a_program_that_hangs_or_quits_has_not_passed_the_rest() -> None:
    any_isolation()
    loops = "```python\ndef f(n):\n    while n > 1: pass\n    return n\n```"
    quits = loops.replace("while n > 1: pass", "n > 1 and exit()")
    ends = loops.replace("while n > 1: pass", "n > 1 and __import__('os')._exit(0)")
    grows = loops.replace("while n > 1: pass", "n > 1 and bytearray(10 ** 12)")
    answers = [loops, quits, ends, grows, "```python\ndef f(n:\n```"]
    frame = rows(answers, tests="assert f(1) == 1\nassert f(2) == 2")
    result = execution(CTX, frame, method=Tests(timeout=2))
    assert result["execution_pass_rate"].to_list() == [0.5, 0.5, 0.5, 0.5, 0.0]
    program = "```python\nn = int(input())\nwhile n > 2: pass\nprint(n)\n```"
    frame = rows([program], expected_output=[["1", "2", "3"]], stdin=[["1", "2", "3"]])
    result = execution(CTX, frame, method=Program(stdin="stdin", timeout=2))
    assert result.row(0)[:5] == ("timeout", 2 / 3, 2, 2, 1)


def test_what_nothing_can_be_said_of_is_null() -> None:
    any_isolation()
    answers = [ADD, ADD, None, "I cannot.", ADD, ADD, "```python\n\n```", "```js\nadd\n```"]
    right = "assert add(1, 2) == 3"
    tests = [None, "", right, right, "x = 1", "assert (", right, right]
    result = execution(CTX, rows(answers, tests=tests), method=Tests())
    unparsed = ["unparsed"] * 5
    assert result["execution_outcome"].to_list() == [None, None, None, *unparsed]
    assert result.drop("execution_outcome").null_count().row(0) == (8,) * 5


def test_a_row_depends_on_itself_alone() -> None:
    any_isolation()
    answers = [ADD, ADD.replace("+", "-"), "```python\nraise KeyError('x')\n```"]
    frame = rows(answers, tests="assert add(1, 2) == 3")
    whole = execution(CTX, frame, method=Tests())
    assert whole["execution_outcome"].to_list() == ["pass", "fail", "error"]
    assert whole["execution_error"][2] == "KeyError: 'x' (line 1)"
    backwards = execution(CTX, frame.reverse(), method=Tests())
    assert_frame_equal(whole, backwards.reverse())
    assert_frame_equal(whole[1:2], execution(CTX, frame[1:2], method=Tests()))


def test_select_response_takes_the_sample_that_passes() -> None:
    any_isolation()
    answers = [ADD.replace("+", "-"), ADD, "```python\nwhile True: pass\n```"]
    frame = rows(answers, tests="assert add(1, 2) == 3", tools=None)
    tested = frame.hstack(execution(CTX, frame, method=Tests(timeout=2)))
    chosen = select_response(CTX, tested, score="execution_pass_rate")
    assert chosen["drop_reason"].to_list() == ["not_selected", None, "not_selected"]


def test_expected_values_never_enter_the_sandbox() -> None:
    cases = cases_of("X = 5\nassert f(2) == 'secret'\ndef test():\n    assert f(3) == 1234", None)
    assert cases is not None
    assert "secret" not in str(cases.steps)
    assert "1234" not in str(cases.steps)
    assert [kind for kind, _ in cases.steps] == ["setup", "case", "setup", "case"]


def test_an_assertion_that_may_not_be_reached_stays_inside() -> None:
    source = "def test():\n    if f(1):\n        return\n    assert f(2) == 3"
    cases = cases_of(source, None)
    assert cases is not None
    assert cases.checks == [{}, {}]


@pytest.mark.parametrize("text", ["(" * 5000, "-" * 100_000 + "1", "x = '\0'", "[" * 90 + "]" * 90])
def test_hostile_tests_are_unparsed(text: str) -> None:
    assert cases_of(text, None) is None
    program_of(text, ("python",), "all")


LONG: Final = {
    "a fence without an end": "```" + "x" * 50_000 + "`",
    "ticks": "`" * 50_000,
    "spaces": "``` " + " " * 50_000 + "`\n" + " " * 50_000,
    "letters behind a number": r"\boxed{1" + "a" * 50_000 + "1}",
    "words behind a number": r"\boxed{1 " + "a " * 25_000 + "1}",
    "digits": r"\boxed{" + "1" * 50_000 + "}",
    "braces": r"\boxed{" * 5_000,
    "fractions": r"\boxed{" + r"\frac{1}{2}" * 5_000 + "}",
    "commas": "1," * 25_000,
}


def test_long_answers_take_no_time() -> None:
    frame = rows([*LONG.values()], gold="1", tests="assert f(1) == 1")
    start = time.process_time()
    outcomes(frame, Answer(gold="gold", last_number=True))
    for text in LONG.values():
        program_of(text, ("python",), "all")
    assert time.process_time() - start < 10


def test_blocks() -> None:
    text = "```python\na = 1\n```\n```\nout\n```\n~~~py\nb = 2\n~~~\n  ```Python\n  c = 3\n  ```"
    names = ("python", "py")
    assert program_of(text, names, "all") == "a = 1\n\nb = 2\n\nc = 3\n"
    assert program_of(text, names, "first") == "a = 1\n"
    assert program_of(text, names, "last") == "c = 3\n"
    assert program_of("```\nx\n```", names, "all") == "x\n"
    assert program_of("```python\ncut = 'o", names, "all") == "cut = 'o"
    assert program_of("def f():\n    return 1", names, "all") == "def f():\n    return 1"
    for prose in ("Yes", "42", "Yes, I can.", "", "a, b, c"):
        assert program_of(prose, names, "all") is None


# --- programs


def test_outputs_are_compared_with_each_input() -> None:
    any_isolation()
    program = "```python\nn = int(input())\nprint('odd' if n % 2 else 'even ')\n\n```"
    lying = "```python\nprint('odd')\n```"
    failing = "```python\nprint('odd')\nraise SystemExit(3)\n```"
    frame = rows([program, lying, failing], expected_output=[["odd", "even"]] * 3,
                 stdin=[["3\n", "4\n"]] * 3)  # fmt: skip
    result = execution(CTX, frame, method=Program(stdin="stdin"))
    assert result["execution_outcome"].to_list() == ["pass", "fail", "error"]
    assert result["execution_pass_rate"].to_list() == [1.0, 0.5, 0.0]
    assert outcomes(frame, Program(stdin="stdin", compare="exact"))[0] == "fail"


def test_a_program_ends_as_an_interpreter_ends() -> None:
    any_isolation()
    program = (
        "```python\nimport atexit, threading, time, sys\natexit.register(print, 'bye')\n"
        "threading.Thread(target=lambda: (time.sleep(.1), print('thread'))).start()\n"
        "if __name__ == '__main__':\n    print('main', end=' ')\nsys.exit(0)\n```"
    )
    assert outcomes(rows([program], expected_output="main thread\nbye"), Program()) == ["pass"]


def test_programs_of_thought() -> None:
    any_isolation()
    answers = ["```python\nprint('so')\nprint(3 / 4)\n```", "```python\nprint('?')\n```"]
    frame = rows(answers, expected_output=[r"\frac{3}{4}", "75%"])
    result = execution(CTX, frame, method=Program(compare="answer"))
    assert result["execution_outcome"].to_list() == ["pass", "unparsed"]
    assert result["execution_pass_rate"].to_list() == [1.0, None]


@pytest.mark.parametrize(
    ("stdin", "expected", "outcome", "ran"),
    [
        (5, 6, "pass", 1),
        ("5", "6", "pass", 1),
        ([5, 6], [6, 7], "pass", 2),
        (5, [6, 6], "pass", 2),
        ([5, None], [6, 7], "pass", 1),
        ([5, 6], [6, None], "pass", 1),
        ([5, 6], [6, 8], "fail", 2),
        ([5], [6, 7], "unparsed", None),
        ([5, 6, 7], [6, 7], "unparsed", None),
        ([5, 6], 6, "unparsed", None),
        (None, 6, None, None),
        ([None], [6], None, None),
        (5, [None], None, None),
        ([], [], None, None),
    ],
)
def test_inputs_are_never_guessed(
    stdin: Any, expected: Any, outcome: str | None, ran: int | None
) -> None:
    any_isolation()
    extra = json.dumps({"stdin": stdin, "expected": expected})
    frame = rows(["```python\nprint(int(input()) + 1)\n```"], extra=extra)
    method = Program(stdin="extra.stdin", expected="extra.expected")
    result = execution(CTX, frame, method=method)
    assert result["execution_outcome"].item() == outcome
    assert result["execution_ran"].item() == ran


def test_expected_truth_values_are_as_python_prints_them() -> None:
    any_isolation()
    frame = rows(["```python\nprint(1 == 1)\n```"] * 2, expected_output=[True, False])
    assert outcomes(frame, Program()) == ["pass", "fail"]


def test_other_languages_by_their_command() -> None:
    any_isolation()
    if not shutil.which("perl", path="/usr/bin"):
        pytest.skip("perl is not installed")
    answers = ["```perl\nprint 6 * 7, <STDIN>;\n```", "```perl\ndie 'x';\n```", "```python\n1\n```"]
    method = Program(
        command=("perl", "{file}"), file_name="a.pl", languages=("perl",), stdin="stdin"
    )
    frame = rows(answers, expected_output="42!", stdin="!")
    assert outcomes(frame, method) == ["pass", "error", "unparsed"]


# --- checkers


def test_answers_are_checked_by_functions() -> None:
    any_isolation()
    short = "def evaluate(response):\n    return len(response) < 20"
    no_e = "def evaluate(response):\n    return 'e' not in response"
    text = "def evaluate(response):\n    return 'true'"
    frame = rows(
        ["A short one", "Quit now", "Any", None, "x"],
        checkers=[[short, no_e], [short, no_e], [short, text], [short], []],
    )
    result = execution(CTX, frame, method=Checkers())
    assert result["execution_outcome"].to_list() == ["fail", "pass", "error", None, None]
    assert result["execution_pass_rate"].to_list() == [0.5, 1.0, 1.0, None, None]
    assert result["execution_not_ran"].to_list() == [0, 0, 1, None, None]
    assert result["execution_error"][2] == "it must return True or False, got str"


# --- answers


def test_labelled_solutions_of_gsm8k(shared: Path) -> None:
    """The labels are an oracle: precision and recall of the answer match are 1."""
    solutions = pl.read_parquet(shared / "references/gsm8k_labelled_solutions.parquet")
    frame = rows(solutions["solution"].to_list(), gold=solutions["ground_truth"].to_list())
    method = Answer(gold="gold", pattern=r"(?m)^A: *(.*)$")
    result = execution(CTX, frame, method=method)["execution_outcome"]
    is_correct = solutions["is_correct"]
    assert len(solutions) == 3696
    assert (result == "pass").to_list() == is_correct.to_list()
    assert (result == "unparsed").sum() == 10
    assert not ((result == "unparsed") & is_correct).any()


def test_gold_answers_of_gsm8k_are_read_without_a_pattern() -> None:
    items = json_lines(DATA / "benchmarks/gsm8k_test.jsonl.gz")[:300]
    texts = [item["answer"] for item in items]
    boxed = [rf"Thus $\boxed{{{text.split('####')[1].strip()}}}$ it is." for text in texts]
    assert set(outcomes(rows(boxed, gold=texts), Answer(gold="gold"))) == {"pass"}
    other = [texts[-1], *texts[:-1]]
    assert outcomes(rows(boxed, gold=other), Answer(gold="gold")).count("pass") < 30


def test_answers_that_cannot_be_read_are_neither_right_nor_wrong() -> None:
    answers = ["The answer is 7.", "It depends on many things that nobody can know.", "7", "", None]
    result = execution(
        CTX, rows([*answers, "7"], gold=[7, 7, 8, 7, 7, None]), method=Answer(gold="gold")
    )
    assert result["execution_outcome"].to_list() == ["pass", "unparsed", "fail", None, None, None]
    assert result["execution_pass_rate"].to_list() == [1.0, None, 0.0, None, None, None]
    assert result["execution_answer"].to_list() == ["7", None, "7", None, None, "7"]
    numbers = Answer(gold="gold", last_number=True)
    long = "We add 3 and 4 of them, which comes to about 7 in total as they say"
    assert outcomes(rows([long], gold="7"), numbers) == ["pass"]


@pytest.mark.parametrize("gold", [None, "", "A long solution of many words that comes to nothing."])
def test_a_majority_needs_no_gold_answers(gold: str | None) -> None:
    answers = ["The answer is 7.", r"So $\boxed{8}$.", "The answer is\n\n7", "I don't know.", None]
    frame = rows(answers).with_columns(gold=pl.lit(gold, pl.String))
    result = execution(CTX, frame, method=Answer(gold="gold"))
    assert result["execution_answer"].to_list() == ["7", "8", "7", None, None]
    assert result.drop("execution_answer").null_count().sum_horizontal().item() == 5 * 6


# --- options, and machines without isolation


def test_a_machine_without_isolation_refuses_unless_it_is_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(isolation_module, "_candidates", lambda: iter(()))
    isolation_module.isolation.cache_clear()
    try:
        frame = rows([ADD], tests="assert add(1, 2) == 3")
        with pytest.raises(UserError, match="must run isolated") as refusal:
            execution(CTX, frame, method=Tests())
        assert "bubblewrap" in str(refusal.value.hint)
        assert outcomes(frame, Tests(unsafe=True)) == ["pass"]
        assert "limits alone" in caplog.text
        # What runs nothing needs nothing.
        assert outcomes(rows(["No."], tests="assert add(1, 2) == 3"), Tests()) == ["unparsed"]
    finally:
        isolation_module.isolation.cache_clear()


def test_isolation_is_no_part_of_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    any_isolation()
    failing = "```python\nimport os\nopen(os.path.join(os.environ['HOME'], 'no'))\n```"
    answers = [ADD, "```python\nraise KeyError(object())\n```", failing]
    frame = rows(answers, tests="assert add(1, 2) == 3")
    isolated = execution(CTX, frame, method=Tests())
    monkeypatch.setattr(isolation_module, "_candidates", lambda: iter(()))
    isolation_module.isolation.cache_clear()
    try:
        assert_frame_equal(isolated, execution(CTX, frame, method=Tests(unsafe=True)))
    finally:
        isolation_module.isolation.cache_clear()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": {"name": "tests", "timeout": 0}}, "timeout"),
        ({"method": {"name": "answer", "pattern": "a("}}, "pattern must be a regular expression"),
        ({"method": {"name": "answer", "pattern": "a"}}, "pattern must have one group"),
        ({"method": {"name": "answer", "timeout": 3}}, "timeout"),
        ({"method": {"name": "program", "command": ["node"]}}, "command must hold {file}"),
        ({"method": {"name": "program", "file_name": "../x"}}, "file_name must be a name"),
        ({"method": "test"}, "method"),
        ({}, "method"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    assert message in str(problems("score.execution", **options))
