"""Filters of system calls, as the kernel takes them: a few building blocks in classic BPF, and the installation.

A body decides about one system call and always ends by returning; `program` puts bodies one after another, and lets
every other call pass.

Sources: seccomp(2); linux/include/uapi/linux/{seccomp,filter,bpf_common,audit}.h.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Mapping, Sequence
from typing import Final

Instruction = tuple[int, int, int, int]
"""Code, where to jump if true, where if false, operand."""
Body = list[Instruction]

ARCHITECTURES: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT: Final = 0x40000000
"""Of numbers of x86_64's second table, which would pass by a filter of the first one's."""

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_AT_NUMBER, _AT_ARCHITECTURE, _AT_ARGUMENTS = 0, 4, 16
_ARGUMENT_BYTES: Final = 8
"""Of which the lower half comes first, on both architectures. The kernel takes an int from it alone, and so do we."""
_WHOLE: Final = 0xFFFFFFFF
_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _MODE_FILTER = 22, 38, 2

ALLOWED: Final[Body] = [(_RETURN, 0, 0, _ALLOW)]


def refused(code: int = errno.EPERM) -> Body:
    """Return a body that fails the call with `code`."""
    return [(_RETURN, 0, 0, _ERRNO | code)]


def required(argument: int, values: Sequence[int], mask: int = _WHOLE) -> Body:
    """Return a body's begin that fails the call unless `argument`, masked, is one of `values`."""
    tests = [(_EQUAL, len(values) - at, 0, value) for at, value in enumerate(values)]
    return [*_argument(argument), (_AND, 0, 0, mask), *tests, *refused()]


def without(argument: int, bits: int) -> Body:
    """Return a body's begin that fails the call where `argument` has any of `bits`."""
    return [*_argument(argument), (_ANY_BIT, 0, 1, bits), *refused()]


def allowed_if(argument: int, value: int) -> Body:
    """Return a body's begin that lets the call pass where `argument` is `value`."""
    return [*_argument(argument), (_EQUAL, 0, 1, value), *ALLOWED]


def program(architecture: int, bodies: Mapping[int, Body]) -> list[Instruction]:
    """Return the filter that has `bodies` decide by number; calls of another architecture are refused."""
    found = [(_LOAD, 0, 0, _AT_ARCHITECTURE), (_EQUAL, 1, 0, architecture), *refused()]
    found += [(_LOAD, 0, 0, _AT_NUMBER), (_AT_LEAST, 0, 1, _X32_BIT), *refused()]
    for number, body in bodies.items():
        found += [(_LOAD, 0, 0, _AT_NUMBER), (_EQUAL, 0, len(body), number), *body]
    return [*found, *ALLOWED]


def install(instructions: Sequence[Instruction]) -> None:
    """Put the filter on this thread and all that it starts, for ever.

    Raises:
        OSError: The kernel has no filters, or refused this one.
    """
    packed = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
    code = ctypes.create_string_buffer(packed, len(packed))
    header = struct.pack("@HP", len(instructions), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    calls = ((_PR_SET_NO_NEW_PRIVS, 1, 0), (_PR_SET_SECCOMP, _MODE_FILTER, header))
    for option, first, second in calls:
        if libc.prctl(option, ctypes.c_ulong(first), second, 0, 0):
            raise OSError(ctypes.get_errno(), f"seccomp: {os.strerror(ctypes.get_errno())}")


def _argument(number: int) -> Body:
    return [(_LOAD, 0, 0, _AT_ARGUMENTS + _ARGUMENT_BYTES * number)]
