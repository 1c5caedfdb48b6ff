"""Programs that try to pass without an answer, to get out, or to hang: none of them passes.

Each of `TO_PASS` stands where a solution of `add` should; its tests compare values outside the
sandbox and assert inside. Each of `TO_GET_OUT` prints REACHED if it got at something.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Final

import polars as pl
import pytest

from pipeline.context import Context
from stages._sandbox.execute import Limits, Run, execute
from stages._sandbox.isolation import Isolation
from stages.score.execution import execution
from stages.score.execution.unit_tests import Tests
from tests.support.isolating import EACH, any_isolation, isolation_of

CTX: Final = Context(Path(), Path(), Path())
OUTSIDE: Final = "assert add(1, 2) == 3\nassert add(2, 2) == 4"
INSIDE: Final = (
    "def test_add():\n    for n in range(3):\n        assert add(n, 1) == n + 1\n"
    "assert all(add(n, n) == 2 * n for n in range(3))\n"
    "assert isinstance(add(1, 1), int) and add(1, 1) - 2 in [0]"
)
UNITTEST: Final = (
    "import unittest\nclass T(unittest.TestCase):\n    def test_add(self):\n"
    "        self.assertEqual(add(1, 2), 3)\n        self.assertEqual(add(2, 2), 2 + 2)\n"
)
TESTS: Final = (OUTSIDE, INSIDE, UNITTEST)

HONEST: Final = "def add(a, b):\n    return a + b"
TO_PASS: Final = {
    "exits": "import sys\nprint('PASS')\nsys.exit(0)",
    "exits when called": "import sys\ndef add(a, b):\n    sys.exit(0)",
    "ends the process": "import os\nprint('1 passed')\nos._exit(0)",
    "ends it when called": "import os\ndef add(a, b):\n    os._exit(0)",
    "ends at exit": "import atexit, os\natexit.register(os._exit, 0)\nraise SystemExit(0)",
    "prints a verdict": "def add(a, b):\n    print('PASS', 'OK', '{\"passed\": true}')",
    "equal to everything": (
        "class Any(int):\n    def __eq__(self, o): return True\n"
        "    def __bool__(self): return True\n    def __sub__(self, o): return self\n"
        "    __hash__ = None\n    def __ne__(self, o): return False\n"
        "def add(a, b):\n    return Any(7)"
    ),
    "a text equal to everything": (
        "class Any(str):\n    def __eq__(self, o): return True\n    def __hash__(self): return 0\n"
        "def add(a, b):\n    return Any('3')"
    ),
    "lies about its class": (
        "class Any:\n    __class__ = int\n    def __eq__(self, o): return True\n"
        "def add(a, b):\n    return Any()"
    ),
    "redefines built-ins": (
        "import builtins\nall = any = isinstance = lambda *a: True\n"
        "builtins.all = builtins.any = builtins.isinstance = lambda *a: True\n"
        "builtins.range = lambda *a: []\nbuiltins.AssertionError = KeyError\n"
        "def add(a, b):\n    return None"
    ),
    "redefines them when called": (
        "import builtins\ndef add(a, b):\n    builtins.all = lambda x: True\n"
        "    builtins.range = lambda *a: []\n    globals()['test_add'] = lambda: None\n"
        "    return 0"
    ),
    "replaces modules": (
        "import sys, types\nfor name in list(sys.modules):\n    if name != 'sys':\n"
        "        sys.modules[name] = types.ModuleType(name)\ndef add(a, b):\n    return 0"
    ),
    "patches unittest": (
        "import unittest\nunittest.TestCase.assertEqual = lambda *a, **k: None\n"
        "unittest.TestCase.run = lambda self, result=None: result\n"
        "unittest.TestResult.wasSuccessful = lambda self: True\ndef add(a, b):\n    return 0"
    ),
    "replaces the reporting": (
        "__record__ = lambda *a: None\ndef add(a, b):\n"
        "    globals().update(__record__=lambda *a: None, __unittest__=lambda *a: None)\n"
        "    return 0"
    ),
    "writes to all files": (
        "import os\nfor fd in range(3, 1024):\n"
        "    for text in (b'PASS\\n', b\"('passed', 0)\\n('passed', 1)\\n('end', '0')\\n\"):\n"
        "        try: os.write(fd, text)\n        except OSError: pass\nos._exit(0)"
    ),
    "reads all files": (
        "import os\nfor fd in range(3, 64):\n    try: os.write(1, os.read(fd, 100))\n"
        "    except OSError: pass\ndef add(a, b):\n    return 0"
    ),
    "closes all files": "import os\nos.closerange(0, 4096)\ndef add(a, b):\n    return a + b",
    "a base exception": (
        "class Stop(BaseException):\n    def __str__(self): raise self\n"
        "def add(a, b):\n    raise Stop"
    ),
    "kills its parent": (
        "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nos.kill(-1, signal.SIGKILL)"
    ),
    "forges events": (
        "import sys\ndef add(a, b):\n    frame = sys._getframe(1)\n"
        "    record = frame.f_globals['__record__']\n    record(0, 3), record(1, 4)\n    return 0"
    ),
    "kills its group": "import os\nos.killpg(0, 9)",
    "traces its parent": (
        "import ctypes, os\nlibc = ctypes.CDLL(None)\n"
        "assert libc.ptrace(16, os.getppid(), 0, 0) == 0, 'refused'\ndef add(a, b):\n    return 0"
    ),
    "its parent's files": (
        "import os\nfor fd in range(64):\n    try:\n"
        "        with open(f'/proc/{os.getppid()}/fd/{fd}', 'w') as f: f.write('PASS\\n')\n"
        "    except OSError: pass\ndef add(a, b):\n    return 0"
    ),
    "its parent's memory": (
        "import os\nopen(f'/proc/{os.getppid()}/mem', 'r+b').read(1)\ndef add(a, b):\n    return 0"
    ),
    "goes on in a child": (
        "import os\nif os.fork():\n    os._exit(0)\ndef add(a, b):\n    return a + b"
    ),
    "goes on in a daemon": (
        "import os, time\nif os.fork():\n    os._exit(0)\nos.setsid()\nif os.fork():\n"
        "    os._exit(0)\ntime.sleep(60)"
    ),
    "hides what it left": (
        "import gc, sys\ndef add(a, b):\n    frame = sys._getframe()\n    while frame:\n"
        "        for name, value in list(frame.f_locals.items()):\n"
        "            if name == 'send': value(('passed', 0)); value(('end', ''))\n"
        "        frame = frame.f_back\n    return 0"
    ),
    "reads what is expected": (
        "import gc, sys\ndef add(a, b):\n    code = sys._getframe(1).f_code\n"
        "    return next((c for c in code.co_consts if c not in (0, 1, 2, None)), 0)"
    ),
    "loops": "while True:\n    pass",
    "loops when called": "def add(a, b):\n    while True:\n        pass",
    "loops in C": "import re\nre.match('(a*)*b', 'a' * 40)\ndef add(a, b):\n    return 3",
    "ignores signals": (
        "import signal, time\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\nwhile True:\n    time.sleep(1)"
    ),
    "leaves a thread": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\n"
        "raise SystemExit(0)"
    ),
    "stops the clock": (
        "import time\ntime.time = time.monotonic = lambda: 0.0\nwhile time.time() < 1:\n    pass"
    ),
    "an alarm of its own": (
        "import signal\nsignal.alarm(0)\nsignal.setitimer(signal.ITIMER_REAL, 0)\n"
        "while True:\n    pass"
    ),
    "waits for input": "while True:\n    input()",
    "forks without end": "import os\nwhile True:\n    os.fork()",
    "threads without end": (
        "import threading, time\nwhile True:\n"
        "    threading.Thread(target=time.sleep, args=(60,)).start()"
    ),
    "a gigabyte": "x = bytearray(10**9)\ndef add(a, b):\n    return a + b",
    "memory in children": (
        "import os, time\nfor n in range(8):\n    if not os.fork():\n"
        "        x = bytearray(b'x') * (200 << 20)\n        time.sleep(60)\ntime.sleep(60)"
    ),
    "recursion": "def add(a, b):\n    return add(a, b)",
    "recursion without limit": (
        "import sys\nsys.setrecursionlimit(10**9)\ndef add(a, b):\n    return add(b, a)"
    ),
    "output without end": "while True:\n    print('x' * 1000)",
    "errors without end": "import sys\nwhile True:\n    sys.stderr.write('x' * 1000)",
    "events without end": (
        "def add(a, b):\n    while True:\n        __record__(0, 'x' * 1000)"
    ),
    "an output bomb": (
        "import sys, zlib\nbomb = zlib.compress(bytes(50_000_000))\n"
        "sys.stdout.buffer.write(zlib.decompress(bomb))\nsys.stdout.flush()"
    ),
    "fills the disk": (
        "with open('big', 'wb') as f:\n    for n in range(1000): f.write(bytes(1 << 20))"
    ),
    "many files at once": "kept = [open('f', 'w') for _ in range(5000)]",
    "a value in itself": (
        "def add(a, b):\n    x = []\n    x.append(x)\n    return x"
    ),
    "crashes": "import ctypes\nctypes.string_at(0)",
    "deep source": "x = " + "(" * 500 + ")" * 500,
    "no Python": "def add(a, b) return a + b",
}  # fmt: skip

ENDLESS: Final = {
    "loops", "loops when called", "loops in C", "ignores signals", "stops the clock",
    "an alarm of its own", "recursion without limit", "an output bomb", "memory in children",
    "forks without end",
}  # fmt: skip
"""Those that go on until a limit ends them."""
_SECONDS: Final = 3.0


def rows(programs: dict[str, str], tests: str) -> pl.DataFrame:
    """A row for each program."""
    answers = [f"Here it is:\n```python\n{source}\n```" for source in programs.values()]
    messages = [[{"role": "assistant", "content": answer}] for answer in answers]
    ids = [f"{n:04}" for n in range(len(answers))]
    return pl.DataFrame({"id": ids, "messages": messages, "tests": [tests] * len(answers)})


def none_passes(programs: dict[str, str], tests: str) -> None:
    """Among these programs only the honest one passes, whatever they say of themselves."""
    programs = programs | {"honest": HONEST}
    method = Tests(timeout=_SECONDS, memory_mb=256, scratch_mb=8, output_kb=64)
    result = execution(CTX, rows(programs, tests), method=method)
    outcomes = dict(zip(programs, result["execution_outcome"], strict=True))
    assert outcomes.pop("honest") == "pass"
    # With its standard streams closed a right program is still right.
    assert outcomes.pop("closes all files", "pass") in {"pass", "error"}
    assert not [name for name, outcome in outcomes.items() if outcome in {"pass", None}]
    # Nor does one seem to have passed all that ran.
    rates = dict(zip(programs, result["execution_pass_rate"], strict=True))
    honest = {"honest", "closes all files"}
    assert not [name for name, rate in rates.items() if rate == 1 and name not in honest]


@pytest.mark.parametrize("tests", TESTS, ids=["outside", "inside", "unittest"])
def test_nothing_passes_without_an_answer(tests: str) -> None:
    any_isolation()
    none_passes({name: TO_PASS[name] for name in TO_PASS if name not in ENDLESS}, tests)


@pytest.mark.proof
@pytest.mark.parametrize("tests", TESTS, ids=["outside", "inside", "unittest"])
def test_nothing_passes_that_goes_on_without_end(tests: str) -> None:
    """Some of them are in the next test too, which says what ended them."""
    any_isolation()
    none_passes({name: TO_PASS[name] for name in TO_PASS if name in ENDLESS}, tests)


def test_the_outcome_says_which_limit_it_was() -> None:
    any_isolation()
    expected = {
        "exits": "error",
        "ends the process": "error",
        "loops": "timeout",
        "loops in C": "timeout",
        "ignores signals": "timeout",
        "forks without end": "processes",
        "a gigabyte": "memory",
        "memory in children": "memory",
        "recursion": "error",
        "output without end": "output",
        "an output bomb": "output",
        "fills the disk": "error",
        "equal to everything": "fail",
        "redefines built-ins": "fail",
        "no Python": "error",
    }
    programs = {name: TO_PASS[name] for name in expected}
    method = Tests(timeout=_SECONDS, memory_mb=256, scratch_mb=8, output_kb=64)
    result = execution(CTX, rows(programs, OUTSIDE), method=method)
    assert dict(zip(programs, result["execution_outcome"], strict=True)) == expected


TO_GET_OUT: Final = {
    "a socket": "socket.create_connection(('127.0.0.1', PORT), 2); reached()",
    "a Unix socket": (
        "s = socket.socket(socket.AF_UNIX); s.connect('\\0gristmill-test'); reached()"
    ),
    "a name": "socket.getaddrinfo('example.org', 80); reached()",
    "an interface": "[reached() for _, name in socket.if_nameindex() if name != 'lo']",
    "a raw socket": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW); reached()",
    "a socket of a virtual machine": "socket.socket(40, socket.SOCK_STREAM); reached()",
    "keys of the kernel": (
        "import ctypes\nctypes.CDLL(None).syscall(KEYCTL, 0, -3, 0) != -1 and reached()"
    ),
    "a ring of requests": (
        "import ctypes\nbuffer = ctypes.create_string_buffer(256)\n"
        "ctypes.CDLL(None).syscall(425, 1, buffer) != -1 and reached()"
    ),
    "the environment": "[reached() for value in os.environ.values() if 'SECRET' in value]",
    "the first process's": "'SECRET' in open('/proc/1/environ').read() and reached()",
    "any process's": (
        "for pid in os.listdir('/proc'):\n    if pid.isdigit():\n        try:\n"
        "            'SECRET' in open(f'/proc/{pid}/environ').read() and reached()\n"
        "        except OSError: pass"
    ),
    "other processes": (
        "len([p for p in os.listdir('/proc') if p.isdigit()]) > 2 and reached()"
    ),
    "the runner": "os.kill(RUNNER, 0); reached()",
    "shadow": "open('/etc/shadow').read(); reached()",
    "passwd": "open('/etc/passwd').read(); reached()",
    "the home": "os.path.exists(os.path.expanduser('~root/.ssh')) and reached()",
    "a secret file": "open(SECRET).read(); reached()",
    "through a link": "os.symlink(SECRET, 'link'); open('link').read(); reached()",
    "through dots": "open('../' * 9 + SECRET).read(); reached()",
    "through proc": "open('/proc/1/root' + SECRET).read(); reached()",
    "the repository": "os.path.exists(REPOSITORY) and reached()",
    "write beside the scratch folder": (
        "for path in ('/x', '/usr/x', '/dev/x', '/dev/shm/x', '/proc/x', '/tmp/x', '/etc/x',\n"
        "             sys.prefix + '/x', os.path.dirname(os.__file__) + '/x', SECRET + 'x'):\n"
        "    try: open(path, 'w'); reached()\n    except OSError: pass"
    ),
    "another user": "os.setuid(0); reached()",
    "mounts": (
        "import ctypes\n"
        "ctypes.CDLL(None).mount(b'none', b'/', b'', 32, b'') == 0 and reached()\n"
        "ctypes.CDLL(None).umount2(b'/scratch', 2) == 0 and reached()"
    ),
    "namespaces of its own": (
        "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.unshare(0x10000000) == 0 and reached()"
    ),
    "settings through a new proc": (
        "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.unshare(0x30020000)\n"
        "if os.fork():\n    os.wait()\nelse:\n    os.mkdir('p')\n"
        "    libc.mount(b'proc', b'p', b'proc', 0, b'')\n"
        "    open('p/sys/kernel/core_pattern', 'r+'); reached()"
    ),
    "the trigger of the kernel": "open('/proc/sysrq-trigger', 'w'); reached()",
    "a device": "os.mknod('disk', 0o60600, os.makedev(8, 0)); reached()",
    "the kernel's settings": "open('/proc/sys/kernel/core_pattern', 'r+'); reached()",
    "the kernel's log": "open('/dev/kmsg').read(1); reached()",
    "what ran before": "len(os.listdir('..')) > 1 and reached()",
}  # fmt: skip
_HEAD: Final = "import os, socket, sys\ndef reached():\n    print('REACHED')\n"


@pytest.mark.parametrize("kind", EACH)
def test_nothing_outside_can_be_reached(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    isolation = isolation_of(kind)
    monkeypatch.setenv("API_KEY", "SECRET")
    secret = tmp_path / "key"
    secret.write_text("SECRET")
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind("\0gristmill-test")
        local.listen()
        names = {
            "PORT": server.getsockname()[1],
            "SECRET": str(secret),
            "REPOSITORY": str(Path(__file__).parents[3]),
            "RUNNER": os.getpid(),
            "KEYCTL": 250 if os.uname().machine == "x86_64" else 219,
        }
        head = _HEAD + "".join(f"{name} = {value!r}\n" for name, value in names.items())
        runs = [Run("script", head + source) for source in TO_GET_OUT.values()]
        [ended] = execute([runs], Limits(), isolation)
    assert [e.cut for e in ended] == [None] * len(runs)
    reached = [name for name, e in zip(TO_GET_OUT, ended, strict=True) if "REACHED" in e.stdout]
    assert not reached
    assert sorted(tmp_path.iterdir()) == [secret]


def test_these_programs_reach_what_is_there() -> None:
    """The probes work: without isolation they get at what they are after."""
    names = {"SECRET": __file__, "REPOSITORY": str(Path(__file__).parents[3])}
    head = _HEAD + "".join(f"{name} = {value!r}\n" for name, value in names.items())
    chosen = ("a secret file", "through a link", "the repository", "passwd", "other processes")
    runs = [Run("script", head + TO_GET_OUT[name]) for name in chosen]
    [ended] = execute([runs], Limits(), Isolation("limits"))
    assert all("REACHED" in e.stdout for e in ended)


def test_the_filter_of_system_calls_is_in_force() -> None:
    if os.uname().machine not in {"x86_64", "aarch64"}:
        pytest.skip("there is no filter for this machine")
    source = (
        "import ctypes, os, socket\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "print([line for line in open('/proc/self/status') if line.startswith('Seccomp:')])\n"
        "print(libc.unshare(0), ctypes.get_errno())\n"
        "for family in (1, 2, 10, 16): socket.socket(family, socket.SOCK_DGRAM)\n"
        "socket.socketpair()"
    )
    [[ended]] = execute([[Run("script", source)]], Limits(), any_isolation())
    assert ended.stdout == "['Seccomp:\\t2\\n']\n-1 1\n", ended
    assert ended.exit == 0


DAEMON: Final = (
    "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
    "        time.sleep(123.456)\n    os._exit(0)\nprint('left')"
)


@pytest.mark.parametrize("kind", [*EACH, "limits"])
def test_nothing_is_left_running(kind: str) -> None:
    isolation = Isolation("limits") if kind == "limits" else isolation_of(kind)
    before = _descendants()
    start = time.monotonic()
    jobs = [[Run("script", DAEMON)], [Run("script", TO_PASS["loops"])]]
    ended = execute(jobs, Limits(seconds=2), isolation, workers=2)
    assert [e[0].cut for e in ended] == [None, "timeout"]
    assert time.monotonic() - start < 30
    assert _descendants() <= before


def _descendants() -> set[str]:
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True)
    return {line for line in listed.stdout.splitlines() if "import marshal, sys" in line}


def test_a_run_leaves_nothing_to_the_next() -> None:
    """Files, processes, modules and shared memory of one run are not there in the next."""
    first = (
        "import os, sys, time, builtins\nopen('left', 'w').write('x')\nos.chmod('.', 0)\n"
        "builtins.left = True\nsys.modules['left'] = sys\nif not os.fork():\n    time.sleep(60)"
    )
    second = (
        "import builtins, os, sys\nprint(os.listdir('.'), os.listdir('..'),"
        "hasattr(builtins, 'left'), 'left' in sys.modules,"
        "len([p for p in os.listdir('/proc') if p.isdigit()]))"
    )
    [ended] = execute([[Run("script", first), Run("script", second)]], Limits(), any_isolation())
    assert ended[1].stdout == "[] ['1'] False False 2\n"


def test_many_short_children_are_not_many_processes() -> None:
    source = (
        "import os, time\nfor n in range(40):\n    if not os.fork():\n"
        "        if os.fork(): os._exit(0)\n        os._exit(0)\n    os.wait()\n"
        "    time.sleep(0.005)\nprint('done')"
    )
    [[ended]] = execute([[Run("script", source)]], Limits(processes=8), any_isolation())
    assert (ended.cut, ended.stdout) == (None, "done\n")


def test_python_itself_is_all_there() -> None:
    source = (
        "import asyncio, ctypes, decimal, hashlib, json, multiprocessing, re, sqlite3, ssl, "
        "statistics, subprocess, tempfile, threading, unittest, zlib, sys\n"
        "print(subprocess.run(['/bin/echo', 'hi'], capture_output=True, text=True).stdout)\n"
        "print(tempfile.mkdtemp()[:8], sys.stdin.read(), sys.argv)"
    )
    run = Run("script", source, stdin="é\n", argv=("a",))
    [[ended]] = execute([[run]], Limits(), any_isolation())
    assert ended.stdout == "hi\n\n/scratch é\n ['program.py', 'a']\n", ended


def test_memory_is_measured_and_a_lost_sandbox_costs_its_own_run_alone() -> None:
    # So deep a folder that it cannot be removed by its path: the sandbox ends with it.
    deep = "import os\nfor n in range(3000):\n    os.mkdir('d' * 20)\n    os.chdir('d' * 20)"
    large = "x = bytearray(b'x') * (80 << 20)"
    runs = [Run("script", source) for source in (deep, large, "print('here')")]
    [ended] = execute([runs], Limits(), any_isolation())
    assert [e.cut for e in ended] == [None, None, None]
    assert ended[1].memory > 80 << 20 > ended[2].memory
    assert ended[2].stdout == "here\n"


def test_packages_are_there_only_if_they_are_asked_for() -> None:
    run = Run("script", "import numpy\nprint(numpy.arange(3).sum())")
    limits = Limits(memory_mb=4096)
    assert execute([[run]], limits, any_isolation())[0][0].exit == 1
    assert execute([[run]], limits, any_isolation(), packages=True)[0][0].stdout == "3\n"


def test_results_do_not_depend_on_order_or_on_what_runs_beside() -> None:
    isolation = any_isolation()
    names = ["honest", "redefines built-ins", "exits", "a base exception", "kills its parent"]
    programs = [{**TO_PASS, "honest": HONEST}[name] for name in names] * 3
    jobs = [
        [Run("steps", source, steps=[("case", "assert add(1, 2) == 3")])] for source in programs
    ]

    def facts(which: list[int], workers: int) -> list[tuple[object, ...]]:
        ended = execute([jobs[n] for n in which], Limits(), isolation, workers=workers)
        pairs = zip(which, ended, strict=True)
        results = {n: (e.cut, e.exit, e.is_complete, e.events[:1]) for n, [e] in pairs}
        return [results[n] for n in range(len(jobs))]

    order = list(range(len(jobs)))
    assert facts(order, 1) == facts(order[::-1], 3)


def test_sandboxes_are_fast() -> None:
    """At least 20 short programs a second and core; by processor time, as others run here too."""
    isolation = any_isolation()
    source = "def f(x):\n    return x.replace('a', 'b')"
    jobs = [[Run("steps", source, steps=[("case", "__record__(0, f('banana'))")])]] * 20
    before = os.times()
    ended = execute(jobs, Limits(), isolation, workers=2)
    after = os.times()
    assert all(e.is_complete for [e] in ended)
    assert sum(after[:4]) - sum(before[:4]) < 20 / 20
