"""System calls that evaluators have no use for, and by which they would get around the walls of files and ports.

Landlock leaves open: sockets in the file system, by which a virtual machine's monitor takes commands; TCP that is not
called so (MPTCP, fast open); limits and priorities of other processes of the user. And where a kernel has no Landlock,
this keeps an evaluator from tracing its neighbours.

Sources: landlock(7), "Current limitations" of linux/Documentation/userspace-api/landlock.rst; numbers from
linux/arch/x86/entry/syscalls/syscall_64.tbl and linux/include/uapi/asm-generic/unistd.h.
"""

import os
import sys
from typing import Final

from . import bpf

_NUMBERS: Final = {
    "x86_64": {
        "socket": 41, "sendto": 44, "sendmsg": 46, "socketpair": 53, "ptrace": 101, "setpriority": 141,
        "sched_setparam": 142, "sched_setscheduler": 144, "sched_setaffinity": 203, "add_key": 248, "request_key": 249,
        "keyctl": 250, "ioprio_set": 251, "migrate_pages": 256, "move_pages": 279, "perf_event_open": 298,
        "prlimit64": 302, "sendmmsg": 307, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312,
        "sched_setattr": 314, "bpf": 321, "userfaultfd": 323,
    },
    "aarch64": {
        "ioprio_set": 30, "ptrace": 117, "sched_setparam": 118, "sched_setscheduler": 119, "sched_setaffinity": 122,
        "setpriority": 140, "socket": 198, "socketpair": 199, "sendto": 206, "sendmsg": 211, "add_key": 217,
        "request_key": 218, "keyctl": 219, "migrate_pages": 238, "move_pages": 239, "perf_event_open": 241,
        "prlimit64": 261, "sendmmsg": 269, "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272,
        "sched_setattr": 274, "bpf": 280, "userfaultfd": 282,
    },
}  # fmt: skip
_NUMBERS_OF_ALL: Final = {"io_uring_setup": 425, "pidfd_getfd": 438, "process_madvise": 440}

_REFUSED: Final = (
    "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd", "kcmp", "perf_event_open",
    "userfaultfd", "bpf", "io_uring_setup", "add_key", "request_key", "keyctl", "setpriority", "ioprio_set",
)  # fmt: skip
_OF_ITSELF: Final = (
    "prlimit64", "sched_setaffinity", "sched_setscheduler", "sched_setparam", "sched_setattr", "migrate_pages",
    "move_pages",
)  # fmt: skip
"""Those whose first argument is a process, 0 for the caller."""
_FLAGS_AT: Final = {"sendto": 3, "sendmsg": 2, "sendmmsg": 3}

_INET, _NETLINK, _INET6 = 2, 16, 10
_STREAM, _DATAGRAM, _KINDS = 1, 2, 0xF
_ANY_PROTOCOL, _TCP, _UDP = 0, 6, 17
_FAST_OPEN: Final = 0x20000000
"""Source: linux/include/linux/socket.h, uapi/linux/in.h."""


def refuse_what_evaluators_do_not_need() -> bool:
    """Put the filter on this thread and all it starts; return False where there is none for this machine."""
    machine = os.uname().machine
    if sys.platform != "linux" or machine not in _NUMBERS:
        return False
    try:
        bpf.install(bpf.program(bpf.ARCHITECTURES[machine], _bodies(_NUMBERS[machine] | _NUMBERS_OF_ALL)))
    except OSError:
        return False
    return True


def _bodies(numbers: dict[str, int]) -> dict[int, bpf.Body]:
    named = {name: bpf.refused() for name in _REFUSED}
    named |= {name: [*bpf.required(0, (0,)), *bpf.ALLOWED] for name in _OF_ITSELF}
    named |= {name: [*bpf.without(at, _FAST_OPEN), *bpf.ALLOWED] for name, at in _FLAGS_AT.items()}
    named["socket"] = [
        *bpf.allowed_if(0, _NETLINK),  # which interfaces and addresses there are, for a look-up of names
        *bpf.required(0, (_INET, _INET6)),
        *bpf.required(1, (_STREAM, _DATAGRAM), _KINDS),
        *bpf.required(2, (_ANY_PROTOCOL, _TCP, _UDP)),
        *bpf.ALLOWED,
    ]
    # Of datagrams, one end could send to a socket in the file system after all.
    named["socketpair"] = [*bpf.required(1, (_STREAM,), _KINDS), *bpf.ALLOWED]
    return {numbers[name]: body for name, body in named.items()}
