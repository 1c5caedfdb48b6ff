"""The process of one untrusted program: it loads the code, takes the steps, and sends events.

Everything in this process is in the program's reach, so nothing that decides is here: expected
values never enter it, and that it came to its end it proves by a number that it is sent last. What
the harness itself needs it holds in local names, taken before the program's first line.

A step is `("setup" | "case", source)`, run in the namespace of the program's module, which holds
each built-in as it was under a second name. Events, one a line, as `ast.literal_eval` reads them:
`("value", number, encoded)`, `("passed", step)`, `("raised", step, outcome, message)`,
`("end", token)`.
"""

from __future__ import annotations

import builtins
import os
import sys
from types import ModuleType

from stages._sandbox.values import are_equal, classes_of, encode

TYPE_CHECKING = False  # as in `typing`, whose import costs a third of a start
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, Final

    Send = Callable[[tuple[Any, ...]], None]

MODULE: Final = "solution"
"""The name under which tests may import the program."""

PRISTINE: Final = "__pristine_{}__"
"""The second name of a built-in, by which steps mean it as it was before the program."""

LOADING: Final = -1
"""The step of an exception from the program itself."""

_MESSAGE: Final = 300


def run_script(source: str) -> None:
    """Run a program as `python program.py` would; exceptions and exits are the interpreter's.

    Args:
        source: Its text.
    """
    module = _module("__main__")
    exec(compile(source, "program.py", "exec", dont_inherit=True), module.__dict__)


def run_steps(run: Mapping[str, Any], send: Send, token: Callable[[], str]) -> None:
    """Load a program as a module, then take the steps until one cannot go on.

    Args:
        run: `source`, `steps`, `value` (what steps read as `__value__`), and `imports`: modules
            that are restored after loading.
        send: Sends an event.
        token: Reads the number that proves the end.
    """
    pid, getpid, stop = os.getpid(), os.getpid, os._exit
    saved = _snapshot(["builtins", *run["imports"]])
    pristine = {PRISTINE.format(name): value for name, value in vars(builtins).items()}
    module = _module(MODULE)
    steps = [(LOADING, "setup", run["source"]), *((n, *s) for n, s in enumerate(run["steps"]))]
    for number, kind, source in steps:
        event = _step(number, source, module.__dict__)
        if getpid() != pid:  # a program forked, and its child went on into the steps
            stop(1)
        if number == LOADING:
            _restore(saved)
            module.__dict__.update(
                pristine,
                __value__=run["value"],
                __record__=lambda number, item: send(("value", number, encode(item))),
                __equal__=lambda left, right: are_equal(left, right, _is_of_program),
                __within__=_is_within,
                __unittest__=_run_unittest,
                __method__=_run_method,
                __test__=_run_test,
            )
        if event is not None:
            send(event)
            if kind == "setup":
                break
        elif kind == "case":
            send(("passed", number))
    send(("end", token()))


def _module(name: str) -> ModuleType:
    for inside in [key for key in sys.modules if key.partition(".")[0] == "stages"]:
        del sys.modules[inside]
    sys.modules[name] = module = ModuleType(name)
    module.__dict__["__builtins__"] = builtins
    return module


def _step(number: int, source: str, namespace: dict[str, Any]) -> tuple[Any, ...] | None:
    """Run the source of a step; the event of what it raised, or None."""
    try:
        exec(compile(source, "program.py", "exec", dont_inherit=True), namespace)
    except BaseException as error:  # also what a program derives to slip through
        return ("raised", number, _outcome(error), _message(error))
    return None


def _outcome(error: BaseException) -> str:
    kinds = classes_of(error)
    if AssertionError in kinds:
        return "fail"
    return "memory" if MemoryError in kinds else "error"


def _message(error: BaseException) -> str:
    """The exception's type, text and line; its `__str__` is the program's and may do anything."""
    try:
        text = str.__str__(str(error))[:_MESSAGE]
    except BaseException:
        text = ""
    line, frame = 0, error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == "program.py":
            line = frame.tb_lineno
        frame = frame.tb_next
    place = f" (line {line})" if line else ""
    return f"{type(error).__name__}: {text}{place}" if text else f"{type(error).__name__}{place}"


def _snapshot(names: Sequence[str]) -> list[tuple[str, ModuleType, dict[str, Any]]]:
    """Modules with their contents, those that can be imported."""
    for name in names:
        try:
            __import__(name)
        except Exception:  # the step that needs it will say so
            continue
    return [(n, m, dict(vars(m))) for n in names if isinstance(m := sys.modules.get(n), ModuleType)]


def _restore(saved: Sequence[tuple[str, ModuleType, dict[str, Any]]]) -> None:
    """Undo what a program set in modules that the tests use."""
    for name, module, contents in saved:
        sys.modules[name] = module
        ModuleType.__getattribute__(module, "__dict__").update(contents)


def _is_of_program(cls: type) -> bool:
    """Whether no module but the program's holds a class under its name."""
    name = type.__dict__["__module__"].__get__(cls)
    module = sys.modules.get(name) if name != MODULE else None
    return getattr(module, cls.__name__, None) is not cls


def _is_within(value: Any, container: Any) -> bool:
    """`value in container`; what a list or tuple holds is not asked whether it is the value."""
    if type(container) is list or type(container) is tuple:
        return any(value is item or are_equal(value, item, _is_of_program) for item in container)
    return value in container


def _run_unittest(case: type, method: str) -> None:
    """Run one method of a `unittest.TestCase`, with what its class sets up.

    Raises:
        AssertionError: It fails.
        RuntimeError: It raises anything else, or is skipped.
    """
    import unittest

    result = unittest.TestResult()
    unittest.TestSuite([case(method)]).run(result)
    for problems, kind in ((result.failures, AssertionError), (result.errors, RuntimeError)):
        if problems:
            raise kind(problems[0][1].strip().rpartition("\n")[2].partition(": ")[2])
    if result.skipped or not result.testsRun or result.expectedFailures:
        raise RuntimeError("the test was skipped")


def _run_method(tests: type, method: str) -> None:
    """Run one method of a class of pytest's, on an object of its own for each set of arguments."""
    marks = [*getattr(tests, "pytestmark", []), *getattr(getattr(tests, method), "pytestmark", [])]
    if callable(set_up := getattr(tests, "setup_class", None)):
        set_up()
    for arguments in _arguments(marks):
        test = tests()
        if callable(set_up := getattr(test, "setup_method", None)):
            set_up(getattr(test, method)) if set_up.__code__.co_argcount > 1 else set_up()
        _call(getattr(test, method), arguments)


def _run_test(test: Callable[..., Any]) -> None:
    """Call a test function with each set of arguments."""
    for arguments in _arguments(getattr(test, "pytestmark", [])):
        _call(test, arguments)


def _call(test: Callable[..., Any], arguments: dict[str, Any]) -> None:
    result = test(**arguments)
    if hasattr(result, "__await__"):
        import asyncio

        asyncio.run(result)


def _arguments(marks: Sequence[Any]) -> list[dict[str, Any]]:
    """The sets of arguments that `pytest.mark.parametrize` gives a test; one empty without."""
    calls: list[dict[str, Any]] = [{}]
    for mark in marks:
        if mark.name == "parametrize":
            names, values = _names_and_values(*mark.args, **mark.kwargs)
            is_single = isinstance(names, str) and "," not in names
            listed = names.replace(",", " ").split() if isinstance(names, str) else list(names)
            sets = [_arguments_of(value, is_single) for value in values if not _is_skipped(value)]
            if not sets:
                raise RuntimeError("the test has no arguments to run with")
            calls = [call | dict(zip(listed, row)) for call in calls for row in sets]  # noqa: B905
    return calls


def _names_and_values(argnames: Any, argvalues: Any, **_: Any) -> tuple[Any, Any]:
    """The arguments of `parametrize` that matter, under pytest's names."""
    return argnames, argvalues


def _arguments_of(value: Any, is_single: bool) -> Any:
    """The arguments of one set; of a single name, whatever stands in the list is its value."""
    if type(value).__name__ == "ParameterSet":  # of `pytest.param`
        return value.values
    return (value,) if is_single else value


def _is_skipped(value: Any) -> bool:
    marks = value.marks if type(value).__name__ == "ParameterSet" else ()
    return any(getattr(mark, "name", "") in ("skip", "skipif", "xfail") for mark in marks)
