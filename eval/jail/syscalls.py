"""System calls that calculating never needs, refused by a seccomp filter.

No new processes, no sockets, no signals to others, no mounts, nothing that looks into another
process or leaves something behind in the kernel. Threads are allowed. The filter is inherited,
needs no privileges and cannot be taken off. Linux on x86-64 and 64-bit ARM.

Numbers: ``arch/x86/entry/syscalls/syscall_64.tbl`` and ``include/uapi/asm-generic/unistd.h`` of
Linux; from 424 on they are the same everywhere.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct

REFUSED: dict[str, tuple[int | None, int | None]] = {
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
    "socket": (41, 198),
    "connect": (42, 203),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
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
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "personality": (135, 92),
}
"""Refused with EPERM, by number on x86-64 and on ARM."""

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


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)
