"""System calls that calculating never needs, refused by a seccomp filter.

No new processes, no sockets, no signals to others, no mounts, nothing that looks into another
process, changes what belongs to a file beside its content, or leaves something behind in the
kernel. Threads are allowed. The filter is inherited,
needs no privileges and cannot be taken off. Linux on x86-64 and 64-bit ARM.

Numbers: ``arch/x86/entry/syscalls/syscall_64.tbl`` and ``include/uapi/asm-generic/unistd.h`` of
Linux; from 424 on they are the same everywhere.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

REFUSED: dict[str, tuple[int | None, int | None]] = {
    # processes, and whatever reaches into another one
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "kill": (62, 129),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "setsid": (112, 157),
    "setpgid": (109, 154),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    # talking to others, directly or through objects of the kernel that outlive a process
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "semget": (64, 190),
    "semop": (65, 193),
    "semtimedop": (220, 192),
    "semctl": (66, 191),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # what belongs to files, which Landlock does not guard
    "truncate": (76, 45),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "open_by_handle_at": (304, 265),
    # the kernel itself
    "memfd_create": (319, 279),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "personality": (135, 92),
    "syslog": (103, 116),
}
"""Refused with EPERM, by number on x86-64 and on ARM."""

OWN_PROCESS = {"tgkill": (234, 131), "prlimit64": (302, 261)}
"""Refused unless the first argument is this process, or 0, which means the same."""
REFUSED_WHERE: dict[str, tuple[int, int, int, tuple[int, ...]]] = {
    "prctl": (157, 167, 0, (1, 4)),  # outliving the parent, being looked into
    "fcntl": (72, 25, 1, (8, 10, 15)),  # a descriptor that sends others a signal: owner, signal
    "ioctl": (16, 29, 1, (0x8901, 0x8902, 0x5412, 0x541C)),  # the same; input for a terminal
}
"""Refused where the argument of that place has one of these values."""
SOCKETPAIR = (53, 199)
STREAMS = tuple(1 | flags for flags in (0, 0x800, 0x80000, 0x80800))
"""Types of socket pairs: a stream cannot be sent anywhere else, as datagrams can."""

CLONE = (56, 220)
NEWER = 424
"""Calls from here on look absent, as on an older kernel, which the C library knows how to bear."""
NEWER_ALLOWED = (436, 437, 439, 441, 449)  # close_range openat2 faccessat2 epoll_pwait2 futex_waitv
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
X32 = 0x40000000

_LOAD, _EQUAL, _AT_LEAST, _HAS_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_CLONE_THREAD = 0x00010000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data


def refuse_what_calculating_never_needs() -> None:
    """Installs the filter for this process; ``no_new_privs`` must be set.

    Raises:
        OSError: Another machine, or a kernel without seccomp.
    """
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no list of system calls for {machine}")
    code = b"".join(_program(*ARCHITECTURES[machine]))
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(22, 2, ctypes.create_string_buffer(header), 0, 0):  # PR_SET_SECCOMP, filter
        number = ctypes.get_errno()
        raise OSError(number, "seccomp is not available")


def available() -> bool:
    """Whether this machine knows the filter."""
    libc = ctypes.CDLL(None)
    return platform.machine() in ARCHITECTURES and libc.prctl(21, 0, 0, 0, 0) >= 0  # GET_SECCOMP


def _program(column: int, architecture: int) -> list[bytes]:
    """The filter in classic BPF; a jump's offsets count from the instruction that follows."""
    steps = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_EQUAL, architecture, 1, 0),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER),
        _step(_AT_LEAST, X32, 0, 1),
        _step(_RETURN, _KILL),
    ]
    for allowed in NEWER_ALLOWED:
        steps += _answer(allowed, _ALLOW)
    steps += [_step(_AT_LEAST, NEWER, 0, 1), _step(_RETURN, _ERROR | errno.ENOSYS)]
    for numbers in REFUSED.values():
        number = numbers[column]
        if number is not None:
            steps += _answer(number, _ERROR | errno.EPERM)
    for x86, arm in OWN_PROCESS.values():
        steps += _only((x86, arm)[column], 0, (0, os.getpid()))
    for x86, arm, place, values in REFUSED_WHERE.values():
        steps += _depends((x86, arm)[column], place, values, _ERROR | errno.EPERM, _ALLOW)
    steps += _only(SOCKETPAIR[column], 1, STREAMS)
    return [
        *steps,
        _step(_EQUAL, CLONE[column], 0, 3),
        _step(_LOAD, _FIRST_ARGUMENT),
        _step(_HAS_BIT, _CLONE_THREAD, 1, 0),
        _step(_RETURN, _ERROR | errno.EPERM),
        _step(_RETURN, _ALLOW),
    ]


def _answer(number: int, action: int) -> list[bytes]:
    return [_step(_EQUAL, number, 0, 1), _step(_RETURN, action)]


def _only(number: int, place: int, values: tuple[int, ...]) -> list[bytes]:
    return _depends(number, place, values, _ALLOW, _ERROR | errno.EPERM)


def _depends(
    number: int, place: int, values: tuple[int, ...], listed: int, other: int
) -> list[bytes]:
    """What happens to a call by the lower half of the argument at ``place``."""
    block = [
        _step(_LOAD, _FIRST_ARGUMENT + 8 * place),
        *(_step(_EQUAL, value, len(values) - at, 0) for at, value in enumerate(values)),
        _step(_RETURN, other),
        _step(_RETURN, listed),
    ]
    return [_step(_EQUAL, number, 0, len(block)), *block]


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)
