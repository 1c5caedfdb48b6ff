"""What test code defines, and which of it asserts something when it is called.

A function that holds an assertion asserts nothing as long as nobody calls it; neither do a
coroutine that nobody awaits and a generator that nobody asks. `Definitions` tells those from what
does, so that only what asserts counts as a case.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from typing import Final

Function = ast.FunctionDef | ast.AsyncFunctionDef

_NESTED: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
_MARK: Final = re.compile(r"(?:pytest\.)?mark\.(?!skip|xfail)")
_MAX_PARSED: Final = 200_000
"""Characters beyond which a text is not parsed in this process."""


def parsed(source: str) -> ast.Module | None:
    """A Python module as its syntax tree; None where it is none, or too long or deep.

    Args:
        source: Python, or anything else.
    """
    if len(source) > _MAX_PARSED:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in what a model wrote
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            return None


class Definitions:
    """The functions and classes of test code, and its statements in the order in which they run.

    The body of an `if __name__ == "__main__":` counts as top level where it asserts something:
    the tests' module has another name.

    Args:
        tree: The test code.
        entry_point: The function that a `check(candidate)` is called with.
    """

    def __init__(self, tree: ast.Module, entry_point: str | None) -> None:
        self.entry_point = entry_point
        flat = [s for top in tree.body for s in _main_body(top) or [top]]
        self.functions = {s.name: s for s in flat if isinstance(s, Function)}
        self.classes = {s.name: s for s in flat if isinstance(s, ast.ClassDef)}
        self._asserting = self._asserting_functions()
        self._called = {name for s in flat if (name := _bare_call(s)) is not None}
        self.statements = [
            s
            for top in tree.body
            for s in ((_main_body(top) if self._any_asserts(top) else None) or [top])
        ]
        self._shared = self._shared_names()

    def is_test(self, function: Function) -> bool:
        """Whether a function is one that a test runner, or the code itself, calls as a test."""
        if not _can_be_called(function, 0) or not is_active(function):
            return False
        if function.name.startswith("test"):
            return True
        is_called = function.name in self._called & self._asserting
        return is_called and isinstance(function, ast.FunctionDef) and not self._is_runner(function)

    def is_check(self, function: Function) -> bool:
        """Whether it is a `check(candidate)` that is called with the entry point."""
        is_named = function.name == "check" and self.entry_point is not None
        return is_named and isinstance(function, ast.FunctionDef) and _required(function) == 1

    def is_shared(self, name: str) -> bool:
        """Whether other code than a bare call names a function or class, and may run it again."""
        return name in self._shared

    def is_repeated(self, statement: ast.stmt) -> bool:
        """Whether a statement calls nothing but tests that are called as cases anyway."""
        match statement:
            case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id="unittest")))):
                return True
            case ast.Expr(value=ast.Call(func=ast.Name(id=name), args=args)):
                function = self.functions.get(name)
                if function is None:
                    return False
                is_run = self.is_test(function) or self._is_runner(function)
                return self.is_check(function) or (is_run and not args)
        return False

    def _is_runner(self, function: Function) -> bool:
        """Whether all that it asserts it leaves to functions `test...`, which are cases anyway."""
        nodes = [*_body_nodes(function)]
        calls = {name for node in nodes if (name := _called_name(node)) in self._asserting}
        is_own = any(isinstance(node, ast.Assert) for node in nodes)
        return bool(calls) and not is_own and all(name.startswith("test") for name in calls)

    def asserts(self, statement: ast.stmt) -> bool:
        """Whether a statement that is no definition asserts something when it runs."""
        match statement:
            case ast.Assert():
                return True
            case ast.Expr(value=ast.Call(func=ast.Name(id=name))) if isinstance(
                self.functions.get(name), ast.AsyncFunctionDef
            ):
                return False
            case ast.Expr() | ast.For() | ast.While() | ast.If() | ast.With() | ast.Try():
                return any(map(self._is_asserting, nodes_of(statement)))
        return False

    def test_methods(self, tests: ast.ClassDef) -> dict[str, Function]:
        """The test methods of a class of tests, those of its bases first.

        Args:
            tests: A class of the test code.
        """
        is_unittest = self.is_test_case(tests)
        if not is_unittest and (not tests.name.startswith("Test") or _has_init(tests)):
            return {}
        return {
            method.name: method
            for cls in reversed(self._line(tests))
            for method in cls.body
            if isinstance(method, Function)
            and method.name.startswith("test")
            and is_active(method)
            and (is_unittest or _can_be_called(method, 1))
        }

    def is_test_case(self, tests: ast.ClassDef) -> bool:
        """Whether a class derives from `unittest.TestCase`, directly or by others."""
        bases = (ast.unparse(base) for cls in self._line(tests) for base in cls.bases)
        return any(base.rpartition(".")[2].endswith("TestCase") for base in bases)

    def _line(self, tests: ast.ClassDef) -> list[ast.ClassDef]:
        """A class and its bases that the test code defines."""
        line, names = [tests], {tests.name}
        for cls in line:  # grows as it goes
            for base in cls.bases:
                name = ast.unparse(base)
                if name in self.classes and name not in names:
                    names.add(name)
                    line.append(self.classes[name])
        return line

    def _asserting_functions(self) -> set[str]:
        """Functions that assert something, or call others that do."""
        self._asserting = set[str]()
        while True:
            asserting = {
                name
                for name, function in self.functions.items()
                if not _is_generator(function)
                and any(map(self._is_asserting, _body_nodes(function)))
            }
            if asserting == self._asserting:
                return asserting
            self._asserting = asserting

    def _shared_names(self) -> set[str]:
        """All names that are read, but for those in calls of tests that are cases anyway."""
        names, runners = set[str](), dict[str, set[str]]()
        for statement in self.statements:
            if isinstance(statement, Function) and self._is_runner(statement):
                runners[statement.name] = _read_names(statement)
            elif not self.is_repeated(statement):
                names |= _read_names(statement)
        return names.union(*(read for name, read in runners.items() if name in names))

    def _any_asserts(self, statement: ast.stmt) -> bool:
        return any(map(self._is_asserting, nodes_of(statement)))

    def _is_asserting(self, node: ast.AST) -> bool:
        return isinstance(node, ast.Assert) or _called_name(node) in self._asserting


def nodes_of(node: ast.AST) -> Iterator[ast.AST]:
    """What runs where a statement does: definitions within it are left out.

    Args:
        node: A statement.
    """
    stack = [node]
    while stack:
        current = stack.pop()
        if isinstance(current, _NESTED):
            continue
        yield current
        stack.extend(ast.iter_child_nodes(current))


def is_active(function: Function) -> bool:
    """Whether a function asserts, calls or raises something by itself.

    Args:
        function: A test.
    """
    kinds = (ast.Assert, ast.Call, ast.Raise)
    return not _is_generator(function) and any(
        isinstance(node, kinds) for node in _body_nodes(function)
    )


def _body_nodes(function: Function) -> Iterator[ast.AST]:
    return (node for statement in function.body for node in nodes_of(statement))


def _is_generator(function: Function) -> bool:
    return any(isinstance(node, ast.Yield | ast.YieldFrom) for node in _body_nodes(function))


def _required(function: Function) -> int:
    """How many arguments a function cannot do without."""
    arguments = function.args
    positional = len(arguments.posonlyargs) + len(arguments.args) - len(arguments.defaults)
    return positional + arguments.kw_defaults.count(None)


def _can_be_called(function: Function, arguments: int) -> bool:
    """Whether pytest can call it without fixtures, and would not skip it."""
    marks = [ast.unparse(decorator) for decorator in function.decorator_list]
    if any("parametrize" in mark for mark in marks):
        return not any(map(_has_no_sets, function.decorator_list))
    if "staticmethod" in marks:
        marks.remove("staticmethod")
        arguments = 0
    is_marked = all(_MARK.match(mark) for mark in marks)
    return is_marked and _required(function) == arguments


def _has_no_sets(decorator: ast.expr) -> bool:
    """Whether a `parametrize` gives an empty list: pytest then runs nothing."""
    match decorator:
        case ast.Call(args=[_, ast.List(elts=[]) | ast.Tuple(elts=[]), *_]):
            return True
    return False


def _has_init(tests: ast.ClassDef) -> bool:
    return any(isinstance(node, Function) and node.name == "__init__" for node in tests.body)


def _read_names(statement: ast.stmt) -> set[str]:
    nodes = ast.walk(statement)
    return {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


def _called_name(node: ast.AST) -> str | None:
    match node:
        case ast.Call(func=ast.Name(id=name)):
            return name
    return None


def _bare_call(statement: ast.stmt) -> str | None:
    match statement:
        case ast.Expr(value=ast.Call(func=ast.Name(id=name), args=[], keywords=[])):
            return name
    return None


def _main_body(statement: ast.stmt) -> list[ast.stmt] | None:
    """The body of an `if __name__ == "__main__":`; None for any other statement."""
    match statement:
        case ast.If(
            test=ast.Compare(left=left, ops=[ast.Eq()], comparators=[right]), body=body
        ) if {ast.unparse(left), ast.unparse(right)} == {"__name__", "'__main__'"}:
            return body
    return None
