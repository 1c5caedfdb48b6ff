"""System calls that no namespace contains, refused to programs by a filter of the kernel.

Sockets of a virtual machine to its host are in no network namespace, and keys of the kernel in none
at all; a ring of requests (`io_uring`) does calls that no filter sees. The other calls here are of
no use to a program in a sandbox. A refused call fails with EPERM. On machines of other kinds, or
with a kernel without filters, namespaces alone hold.
"""

from __future__ import annotations

import ctypes
import os
import struct

TYPE_CHECKING = False  # as in `typing`, whose import costs a third of a start
if TYPE_CHECKING:
    from typing import Final

_ARCHITECTURES: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_SOCKET: Final = {"x86_64": 41, "aarch64": 198}
_REFUSED: Final = {
    # add_key, request_key, keyctl; bpf, userfaultfd, perf_event_open; mount, umount2, pivot_root,
    # unshare, setns; ptrace, process_vm_readv, process_vm_writev; io_uring_setup, _enter, _register
    "x86_64": (248, 249, 250, 321, 323, 298, 165, 166, 155, 272, 308, 101, 310, 311, 425, 426, 427),
    "aarch64": (217, 218, 219, 280, 282, 241, 40, 39, 41, 97, 268, 117, 270, 271, 425, 426, 427),
}
_FAMILIES: Final = (1, 2, 10, 16)
"""Of sockets: Unix, IPv4, IPv6, netlink. All of these are in the network namespace."""

_FIRST_OF_X32: Final = 0x40000000
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENT = 0, 4, 16
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050001
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2


def refuse_calls() -> None:
    """Refuse these calls to this process and all that it starts."""
    machine = os.uname().machine
    if machine not in _ARCHITECTURES:
        return
    code = _program(machine)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(_PR_SET_SECCOMP, _FILTER, program, 0, 0)


def _program(machine: str) -> bytes:
    """The filter, in instructions of 8 bytes: code, jumps if true and if false, operand."""
    refused = _REFUSED[machine]
    size = len(refused) + len(_FAMILIES) + 8
    allow, refuse = size - 2, size - 1
    lines: list[tuple[int, int | None, int | None, int]] = [
        (_LOAD, None, None, _ARCHITECTURE),
        (_EQUAL, None, refuse, _ARCHITECTURES[machine]),
        (_LOAD, None, None, _NUMBER),
        (_AT_LEAST, refuse, None, _FIRST_OF_X32),
        *((_EQUAL, refuse, None, number) for number in refused),
        (_EQUAL, None, allow, _SOCKET[machine]),
        (_LOAD, None, None, _ARGUMENT),
        *((_EQUAL, allow, None, family) for family in _FAMILIES[:-1]),
        (_EQUAL, allow, refuse, _FAMILIES[-1]),
        (_RETURN, None, None, _ALLOW),
        (_RETURN, None, None, _REFUSE),
    ]
    assert len(lines) == size
    return b"".join(
        struct.pack("HBBI", code, *(0 if to is None else to - at - 1 for to in jumps), operand)
        for at, (code, *jumps, operand) in enumerate(lines)
    )
