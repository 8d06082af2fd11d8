"""Landlock: the kernel's own limit to files and TCP ports, which a process without any right puts on itself.

What a kernel lacks is left out: file access by path since Linux 5.13, ports since 6.7, signals since 6.12. The limits
hold for this thread and all it starts, for ever, and each call adds to those before. A process behind them can trace
none outside of them, and none behind fewer.

Sources: landlock(7); linux/include/uapi/linux/landlock.h, whose structures are packed here; numbers of system calls
are the same on all architectures. The packages on PyPI (landlock, py-landlock, landlockpy) have one author and few
releases each, and would have to be in the worker's environment, beside what they are to guard.
"""

import ctypes
import errno
import os
import stat
import struct
import sys
from collections.abc import Iterable
from typing import Final

_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_ASK_VERSION: Final = 1
_RULE_PATH: Final = 1
_RULE_PORT: Final = 2
_PR_SET_NO_NEW_PRIVS: Final = 38

_EXECUTE: Final = 1 << 0
_WRITE_FILE: Final = 1 << 1
_READ_FILE: Final = 1 << 2
_READ_DIR: Final = 1 << 3
_CHANGE_TREE: Final = sum(1 << bit for bit in range(4, 13))
"""Removing, and making anything."""
_REFER: Final = 1 << 13
_TRUNCATE: Final = 1 << 14
_IOCTL_DEV: Final = 1 << 15
_ADDED: Final = ((1, (1 << 13) - 1), (2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEV))
"""The version that brought each right to files."""
_READ: Final = _EXECUTE | _READ_FILE | _READ_DIR
_WRITE: Final = _READ | _WRITE_FILE | _CHANGE_TREE | _REFER | _TRUNCATE | _IOCTL_DEV
_OF_A_FILE: Final = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV

_BIND_TCP: Final = 1 << 0
_CONNECT_TCP: Final = 1 << 1
_PORTS_SINCE: Final = 4
_ABSTRACT_SOCKETS: Final = 1 << 0
_SIGNALS: Final = 1 << 1
_SCOPES_SINCE: Final = 6


def version() -> int:
    """Return the kernel's version of Landlock; 0 where it has none, or none that this process may use."""
    if sys.platform != "linux":
        return 0
    try:
        return _call(_CREATE_RULESET, None, 0, _ASK_VERSION)
    except OSError:
        return 0


def restrict(read: Iterable[str], write: Iterable[str], ports: Iterable[int] | None) -> None:
    """Leave this thread reading and running what is below `read`, and changing what is below `write`.

    Args:
        read: Folders or files; those that are not there are left out.
        write: As `read`.
        ports: TCP ports that may be connected to, none to listen on; None leaves TCP alone.

    Raises:
        OSError: The kernel has Landlock and refused; there may be no limit then.
    """
    has = version()
    files = sum(rights for since, rights in _ADDED if has >= since)
    tcp = _BIND_TCP | _CONNECT_TCP if ports is not None and has >= _PORTS_SINCE else 0
    scopes = _ABSTRACT_SOCKETS | _SIGNALS if has >= _SCOPES_SINCE else 0
    fields = [files, *([tcp] if has >= _PORTS_SINCE else []), *([scopes] if has >= _SCOPES_SINCE else [])]
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    ruleset = _call(_CREATE_RULESET, attributes, len(attributes), 0)
    try:
        for paths, rights in ((read, _READ), (write, _WRITE)):
            for path in paths:
                _allow_path(ruleset, path, rights & files)
        for port in ports or () if tcp else ():
            _call(_ADD_RULE, ruleset, _RULE_PORT, struct.pack("=QQ", _CONNECT_TCP, port), 0)
        if _libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
            raise _error()
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow_path(ruleset: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError, NotADirectoryError):
        return
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            rights &= _OF_A_FILE
        _call(_ADD_RULE, ruleset, _RULE_PATH, struct.pack("=Qi", rights, place), 0)
    finally:
        os.close(place)


def _call(number: int, *arguments: int | bytes | None) -> int:
    """Make a system call; each argument in a register's width, as a variadic function does not know it."""
    wide = [argument if isinstance(argument, bytes) else ctypes.c_void_p(argument) for argument in arguments]
    result = int(_libc().syscall(ctypes.c_long(number), *wide))
    if result < 0:
        raise _error()
    return result


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _error() -> OSError:
    code = ctypes.get_errno() or errno.EINVAL
    return OSError(code, f"Landlock: {os.strerror(code)}")
