"""Test code, taken into cases whose verdict falls outside the sandbox where it can.

A case is a top-level `assert`, a function `test...` that needs no argument or has those of
`pytest.mark.parametrize`, a method of a `unittest.TestCase` or of a class `Test...`, a call of
`check(candidate)`, or another statement that asserts when it runs, such as a call of a function
that does. All else is set-up, definitions among it: what merely defines assertions is no case. Of
`assert f(2) == 4`, the value of `f(2)` is recorded and compared here, not in the program's
process; so is that of `self.assertEqual(f(2), 4)`, and of every comparison with constants that is
taken whatever happens before. The expected value never enters the sandbox. What cannot be taken out
so is asserted inside, with the built-in functions as they were before the program began.

    cases_of("assert f(2) == 4\nassert g(1) or h(1)", None)
    # steps: __record__(0, f(2)); assert ...; the first is compared with 4 here
"""

from __future__ import annotations

import ast
import builtins
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from stages._sandbox.definitions import Definitions, Function, parsed
from stages._sandbox.harness import PRISTINE

Compare = Callable[[Any, Any], Any]


def _same(value: Any, expected: Any) -> bool:
    """`is`, of values that were written and read."""
    return type(value) is type(expected) and bool(value == expected)


def _within(value: Any, container: Any) -> bool:
    return value in container


_COMPARE: Final[dict[type[ast.cmpop], Compare]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: _same,
    ast.IsNot: lambda value, expected: not _same(value, expected),
    ast.In: _within,
    ast.NotIn: lambda value, expected: value not in expected,
}
_UNITTEST: Final[dict[str, type[ast.cmpop]]] = {
    "assertEqual": ast.Eq, "assertEquals": ast.Eq, "assertNotEqual": ast.NotEq,
    "assertIs": ast.Is, "assertIsNot": ast.IsNot, "assertIn": ast.In, "assertNotIn": ast.NotIn,
    "assertListEqual": ast.Eq, "assertDictEqual": ast.Eq, "assertTupleEqual": ast.Eq,
    "assertSetEqual": ast.Eq, "assertGreater": ast.Gt, "assertLess": ast.Lt,
    "assertGreaterEqual": ast.GtE, "assertLessEqual": ast.LtE,
}  # fmt: skip
_BUILTINS: Final = {n for n in vars(builtins) if not n.startswith("__")} - {"super"}
"""Those that a second name can stand for; `super()` works under its own name alone."""

_RECORD: Final = "__record__"


@dataclass(frozen=True)
class Check:
    """A value that a case records, and what it must be.

    Args:
        compare: From the value and the constant to whether the assertion holds.
        constant: What the value is compared with.
        text: The assertion as it is written.
    """

    compare: Compare
    constant: Any
    text: str

    def holds(self, value: Any) -> bool:
        """Whether the assertion holds.

        Args:
            value: What was recorded.
        """
        try:
            return bool(self.compare(value, self.constant))
        except TypeError:
            return False


@dataclass
class Cases:
    """Test code as steps of the harness.

    Args:
        steps: `setup` or `case`, and the source.
        checks: For each step, the checks of what it records by their numbers.
        imports: Modules that the tests import.
    """

    steps: list[tuple[str, str]] = field(default_factory=list)
    checks: list[dict[int, Check]] = field(default_factory=list)
    imports: list[str] = field(default_factory=list)

    @property
    def numbers(self) -> list[int]:
        """The numbers of the steps that are cases."""
        return [number for number, (kind, _) in enumerate(self.steps) if kind == "case"]


def cases_of(tests: str, entry_point: str | None) -> Cases | None:
    """The cases of test code; None where it is no Python, or has none.

    Args:
        tests: The test code.
        entry_point: The function that a `check(candidate)` is called with.
    """
    tree = parsed(tests)
    if tree is None:
        return None
    try:
        splitter = _Splitter(Definitions(tree, entry_point), frozenset(_BUILTINS - _bound(tree)))
        splitter.split()
    except RecursionError:
        return None
    if any(isinstance(node, ast.AsyncFunctionDef) for node in ast.walk(tree)):
        splitter.cases.imports.append("asyncio")  # which runs it
    return splitter.cases if splitter.cases.numbers else None


class _Splitter:
    """Takes statements into steps: first what is set up and asserts by itself, in its order.

    Tests follow when all that they may use is there, as test runners have it. A test whose name
    is defined again is run before that.
    """

    def __init__(self, definitions: Definitions, pristine: frozenset[str]) -> None:
        self.cases = Cases()
        self._definitions = definitions
        self._guarded = _Guarded(pristine)
        self._later: dict[str, list[tuple[str, dict[int, Check]]]] = {}
        self._count = 0

    def split(self) -> None:
        """Add all statements, then the tests among them."""
        for statement in self._definitions.statements:
            self._add(statement)
        for name in [*self._later]:
            self._run(name)

    def _add(self, statement: ast.stmt) -> None:
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self._run(statement.name)
                self._add_function(statement)
            case ast.ClassDef():
                self._run(statement.name)
                self._add_class(statement)
            case _ if self._definitions.is_repeated(statement):
                return
            case _ if self._definitions.asserts(statement):
                checks: dict[int, Check] = {}
                self._step("case", [self._recorded(statement, checks)], checks)
            case _:
                self._import(statement)
                self._step("setup", [statement])

    def _add_function(self, function: Function) -> None:
        name, checks = function.name, dict[int, Check]()
        if self._definitions.is_check(function):
            call = f"{name}({self._definitions.entry_point})"
        elif self._definitions.is_test(function):
            call = f"__test__({name})"
        else:
            self._step("setup", [function])
            return
        self._record_in(function, name, checks)
        self._step("setup", [function])
        self._later[name] = [(call, checks)]

    def _add_class(self, tests: ast.ClassDef) -> None:
        run = "__unittest__" if self._definitions.is_test_case(tests) else "__method__"
        calls = []
        for name, method in self._definitions.test_methods(tests).items():
            checks: dict[int, Check] = {}
            if method in tests.body:
                self._record_in(method, tests.name, checks)
            calls.append((f"{run}({tests.name}, {name!r})", checks))
        self._step("setup", [tests])
        self._later[tests.name] = calls

    def _record_in(self, test: Function, name: str, checks: dict[int, Check]) -> None:
        """Record what a test compares, where it runs once: nothing else knows its name."""
        if not test.decorator_list and not self._definitions.is_shared(name):
            test.body = self._body(test.body, checks)

    def _run(self, name: str) -> None:
        """Add the cases of a function or class."""
        for call, checks in self._later.pop(name, []):
            self._step("case", ast.parse(call).body, checks)

    def _body(self, body: Sequence[ast.stmt], checks: dict[int, Check]) -> list[ast.stmt]:
        """A function's statements; those before its first `return` are all taken in turn."""
        recorded, straight = [], True
        for statement in body:
            straight = straight and not any(
                isinstance(node, ast.Return | ast.Raise | ast.Try) for node in ast.walk(statement)
            )
            recorded.append(self._recorded(statement, checks) if straight else statement)
        return recorded

    def _recorded(self, statement: ast.stmt, checks: dict[int, Check]) -> ast.stmt:
        """An assertion as a call that records the value, where the rest is constant."""
        comparison = _comparison(statement)
        if comparison is None:
            return statement
        value, check = comparison
        number, self._count = self._count, self._count + 1
        checks[number] = check
        return ast.Expr(ast.Call(ast.Name(_RECORD, ast.Load()), [ast.Constant(number), value], []))

    def _import(self, statement: ast.stmt) -> None:
        match statement:
            case ast.Import(names=names):
                self.cases.imports += [alias.name for alias in names]
            case ast.ImportFrom(module=str(name), level=0):
                self.cases.imports.append(name)

    def _step(
        self,
        kind: str,
        statements: Sequence[ast.stmt],
        checks: dict[int, Check] | None = None,
    ) -> None:
        module = ast.Module([self._guarded.visit(s) for s in statements], [])
        self.cases.steps.append((kind, ast.unparse(ast.fix_missing_locations(module))))
        self.cases.checks.append(checks or {})


class _Guarded(ast.NodeTransformer):
    """What runs in the program's process, guarded against what the program may redefine.

    Built-in functions are named as they were before the program, and equality that an assertion
    depends on is not left to the program's classes. What is recorded is compared outside: there a
    program may redefine `sum`, where that is its task.
    """

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        node.test = _guarded(node.test)
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        match node:
            case ast.Call(func=ast.Name(id="__record__")):
                return node
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="self"), attr="assertEqual" | "assertEquals"),
                args=[left, right, *message],
            ):
                node.func.attr = "assertTrue"  # type: ignore[attr-defined]
                node.args = [_equality(left, right), *message]
            case ast.Call(func=ast.Name(id="all" | "any"), args=[ast.GeneratorExp() as generator]):
                generator.elt = _guarded(generator.elt)
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id in self._names:
            return ast.copy_location(ast.Name(PRISTINE.format(node.id), node.ctx), node)
        return node


def _guarded(test: ast.expr) -> ast.expr:
    """A condition whose equalities are guarded; others, such as of arrays, stay as they are."""
    match test:
        case ast.Compare(left=left, ops=[ast.Eq()], comparators=[right]):
            return _equality(left, right)
        case ast.Compare(left=left, ops=[ast.NotEq()], comparators=[right]):
            return ast.UnaryOp(ast.Not(), _equality(left, right))
        case ast.Compare(left=left, ops=[ast.In()], comparators=[right]):
            return ast.Call(ast.Name("__within__", ast.Load()), [left, right], [])
        case ast.Compare(left=left, ops=[ast.NotIn()], comparators=[right]):
            within = ast.Call(ast.Name("__within__", ast.Load()), [left, right], [])
            return ast.UnaryOp(ast.Not(), within)
        case ast.BoolOp(op=op, values=values):
            return ast.BoolOp(op, [_guarded(value) for value in values])
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return ast.UnaryOp(ast.Not(), _guarded(operand))
    return test


def _equality(left: ast.expr, right: ast.expr) -> ast.expr:
    return ast.Call(ast.Name("__equal__", ast.Load()), [left, right], [])


def _bound(tree: ast.AST) -> frozenset[str]:
    """All names that code gives a meaning of its own."""
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()) | ast.arg(arg=name):
                names.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.add(name)
            case ast.ClassDef(name=name):
                names.add(name)
            case ast.alias(name=name, asname=other):
                names.add((other or name).partition(".")[0])
            case ast.ExceptHandler(name=str(name)):
                names.add(name)
    return frozenset(names)


def _comparison(statement: ast.stmt) -> tuple[ast.expr, Check] | None:
    """What an assertion compares with a constant, and how; None where it does no such thing."""
    match statement:
        case ast.Assert(test=ast.Compare(left=left, ops=[compare], comparators=[right])):
            return _with_constant(left, type(compare), right, statement)
        case ast.Expr(
            value=ast.Call(
                func=ast.Attribute(value=ast.Name(id="self"), attr=name),
                args=[left, right, *_],
            )
        ) if name in _UNITTEST:
            return _with_constant(left, _UNITTEST[name], right, statement)
    return None


def _with_constant(
    left: ast.expr, compare: type[ast.cmpop], right: ast.expr, statement: ast.stmt
) -> tuple[ast.expr, Check] | None:
    function = _COMPARE[compare]
    for value, other, ordered in (
        (left, right, function),
        (right, left, lambda value, constant: function(constant, value)),
    ):
        if value is right and compare in {ast.In, ast.NotIn}:
            continue  # a range, an iterator or a view is asked where it is
        try:
            constant = ast.literal_eval(other)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            continue
        return value, Check(ordered, constant, ast.unparse(statement))
    return None
