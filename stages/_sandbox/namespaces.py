"""A sandbox of user namespaces alone, by system calls: for machines without bubblewrap.

The process moves into new user, mount, process, network, IPC, host name and cgroup namespaces. Its
root becomes a temporary file system with the folders that it was given, read-only, and a scratch
folder of limited size; everything else of the machine is unmounted. It holds no capability then.
"""

from __future__ import annotations

import ctypes
import os
import struct

TYPE_CHECKING = False  # as in `typing`, whose import costs a third of a start
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

_NEW: Final = 0x10000000 | 0x00020000 | 0x20000000 | 0x40000000 | 0x08000000 | 0x04000000
"""CLONE_NEWUSER, NEWNS, NEWPID, NEWNET, NEWIPC, NEWUTS."""

_RDONLY, _NOSUID, _NODEV, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
_PIVOT_ROOT: Final = {"x86_64": 155, "aarch64": 41, "riscv64": 41}
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP = 1, 38, 24
_SIGKILL: Final = 9
_CAPABILITY_VERSION: Final = 0x20080522
_UMOUNT_DETACH: Final = 2
_NOBODY: Final = 65534
_ROOT: Final = "/sys"  # a folder to mount on, below which nothing lies that is needed
_DEVICES: Final = ("null", "zero", "full", "random", "urandom")

_libc = ctypes.CDLL(None, use_errno=True)


def enter(binds: Sequence[str], links: Sequence[tuple[str, str]], size: int) -> None:
    """Move into namespaces of its own; returns in the process that has number 1 there.

    Args:
        binds: Folders and files that stay visible, read-only.
        links: Symbolic links to make, each as its target and its path.
        size: Bytes of the scratch folder, `/scratch`.

    Raises:
        OSError: The machine does not permit it.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    user, group = os.geteuid(), os.getegid()
    _check(_libc.unshare(_NEW), "unshare")
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{_NOBODY} {user} 1"),
        ("gid_map", f"{_NOBODY} {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    if pid := os.fork():
        _, status = os.waitpid(pid, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    _libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    _mount_all(binds, links, size)
    _drop_capabilities()


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    arguments = (source.encode(), target.encode(), kind.encode(), flags, data.encode() or None)
    _check(_libc.mount(*arguments), f"mount {target}")


def _mount_all(binds: Sequence[str], links: Sequence[tuple[str, str]], size: int) -> None:
    _mount("none", "/", "", _REC | _PRIVATE)
    _mount("tmpfs", _ROOT, "tmpfs", _NOSUID | _NODEV, "size=1m,mode=755")
    for path in binds:
        _bind(path, _ROOT + path, _RDONLY)
    for target, path in links:
        os.symlink(target, _ROOT + path)
    for name in _DEVICES:
        _bind(f"/dev/{name}", f"{_ROOT}/dev/{name}", 0)
    for name in ("proc", "scratch", "old"):
        os.mkdir(f"{_ROOT}/{name}")
    _mount("proc", f"{_ROOT}/proc", "proc", _NOSUID | _NODEV)
    with open(f"{_ROOT}/proc/sys/user/max_user_namespaces", "w") as file:
        file.write("0")
    # The kernel's settings in it belong to root, and so may this process.
    _mount("none", f"{_ROOT}/proc", "", _REMOUNT | _BIND | _RDONLY | _NOSUID | _NODEV)
    options = f"size={size},mode=755"
    _mount("tmpfs", f"{_ROOT}/scratch", "tmpfs", _NOSUID | _NODEV, options)
    number = _PIVOT_ROOT[os.uname().machine]
    _check(_libc.syscall(number, _ROOT.encode(), f"{_ROOT}/old".encode()), "pivot_root")
    os.chdir("/scratch")
    _check(_libc.umount2(b"/old", _UMOUNT_DETACH), "umount")
    os.rmdir("/old")
    _mount("none", "/", "", _REMOUNT | _BIND | _RDONLY | _NOSUID | _NODEV)


def _bind(path: str, target: str, flags: int) -> None:
    """Make a folder or file visible at another place, with the flags that it has to keep."""
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
    _mount(path, target, "", _BIND | _REC)
    kept = os.statvfs(target).f_flag & (os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC | os.ST_RDONLY)
    if flags:
        _mount("none", target, "", _REMOUNT | _BIND | kept | flags | _NOSUID)


def _drop_capabilities() -> None:
    for capability in range(64):
        _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    header = struct.pack("Ii", _CAPABILITY_VERSION, 0)
    _check(_libc.capset(header, bytes(24)), "capset")
