"""Taking a process out of its surroundings with what Linux offers, through libc alone.

Strong: own user, mount, process, network, IPC and host-name namespaces; a file system of the
interpreter and the system's libraries, read-only, and an empty folder in memory; no capabilities.
Weak: where the kernel refuses namespaces, the process gives up root or, where no other user exists
(a container of one user), root's capabilities, and Landlock, if the kernel has it, keeps it to the
same files.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import sys
from pathlib import Path

NOBODY = 65534
SCRATCH = Path("/tmp")
DEVICES = (Path("/dev/null"), Path("/dev/zero"), Path("/dev/urandom"))
SCRATCH_BYTES = 64 << 20
SCRATCH_FILES = 4096

_NEW_USER, _NEW_MOUNTS = 0x10000000, 0x00020000
_NEW_OTHERS = 0x20000000 | 0x40000000 | 0x08000000 | 0x04000000  # pid, net, ipc, uts
_READ_ONLY, _NO_SUID, _NO_DEV, _NO_EXEC = 1, 2, 4, 8
_REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 32, 4096, 16384, 1 << 18
_DETACH = 2
_DEATH_SIGNAL, _DUMPABLE, _NO_NEW_PRIVILEGES = 1, 4, 38
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_CAPABILITIES_V3 = 0x20080522
_CHANGE_USER = 1 << 0 | 1 << 6 | 1 << 7  # chown, setgid, setuid
_ADMINISTER = 1 << 21

_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_ACCESS_ALL, _ACCESS_TRUNCATE = (1 << 13) - 1, 1 << 14  # linux/landlock.h, versions 1 and 3
_ACCESS_READ_FILE, _ACCESS_READ, _ACCESS_DEVICE = 0b0101, 0b1101, 0b0110

_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent: int) -> None:
    """The kernel kills this process once its parent is gone."""
    _call("prctl", _DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def hide() -> None:
    """No other process of this user may look into or change this one; no way back to privileges."""
    _call("prctl", _DUMPABLE, 0, 0, 0, 0)
    _call("prctl", _NO_NEW_PRIVILEGES, 1, 0, 0, 0)


def can_become_nobody() -> bool:
    """Whether this is a root that can change its user: a container may have one user only."""
    own = Path("/proc/self")
    try:
        mapped = all(_maps(own / name, NOBODY) for name in ("uid_map", "gid_map"))
        groups = (own / "setgroups").read_text("ascii").strip() != "deny"
    except OSError:
        return False
    return os.geteuid() == 0 and mapped and groups and _capable(_CHANGE_USER)


def give_up_root(scratch: Path | None = None) -> None:
    """Becomes nobody, for good, and ``scratch`` nobody's; ``can_become_nobody`` must hold."""
    if scratch is not None:
        os.chown(scratch, NOBODY, NOBODY)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def leave(folder: Path) -> None:
    """Strong confinement of this process and, for process numbers, of its next children.

    Args:
        folder: An empty one, where the new file system is put together.

    Raises:
        OSError: The kernel refuses a part of it; the process is then good for nothing else.
    """
    rules = can_become_nobody() and _capable(_ADMINISTER)
    if rules:
        _call("unshare", _NEW_MOUNTS | _NEW_OTHERS)
    else:
        user, group = os.geteuid(), os.getegid()
        _call("unshare", _NEW_USER | _NEW_MOUNTS | _NEW_OTHERS)
        Path("/proc/self/setgroups").write_text("deny", "ascii")
        Path("/proc/self/uid_map").write_text(f"{NOBODY} {user} 1", "ascii")
        Path("/proc/self/gid_map").write_text(f"{NOBODY} {group} 1", "ascii")
    _change_root(folder)
    if rules:
        give_up_root()
        _call("unshare", _NEW_USER)  # limits on processes then count this program's alone
    drop_capabilities()


def keep_to_files(scratch: Path) -> bool:
    """Reads libraries and devices, writes in ``scratch`` alone; False without Landlock."""
    version = _libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    everything = _ACCESS_ALL | (_ACCESS_TRUNCATE if version >= 3 else 0)
    rules = ctypes.create_string_buffer(struct.pack("Q", everything), 8)
    ruleset = _libc.syscall(_LANDLOCK_CREATE, rules, ctypes.c_size_t(8), 0)
    for path in _libraries():
        _permit(ruleset, path, _ACCESS_READ if path.is_dir() else _ACCESS_READ_FILE)
    for device in DEVICES:
        _permit(ruleset, device, _ACCESS_DEVICE)
    _permit(ruleset, scratch, everything)
    _call("prctl", _NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    _call("syscall", _LANDLOCK_RESTRICT, ruleset, 0)
    os.close(ruleset)
    return True


def limit(*, memory: int, seconds: int, processes: int, file_bytes: int, files: int) -> None:
    """Hard limits of this process; ``memory`` and ``file_bytes`` in bytes, ``seconds`` of CPU.

    The end of CPU time is a signal of its own (SIGXCPU), and death a second later.
    """
    for name, value, grace in [
        (resource.RLIMIT_AS, memory, 0),
        (resource.RLIMIT_CPU, seconds, 1),
        (resource.RLIMIT_NPROC, processes, 0),
        (resource.RLIMIT_FSIZE, file_bytes, 0),
        (resource.RLIMIT_NOFILE, files, 0),
        (resource.RLIMIT_CORE, 0, 0),
    ]:
        _, before = resource.getrlimit(name)
        hard = value + grace if before == resource.RLIM_INFINITY else min(value + grace, before)
        resource.setrlimit(name, (min(value, hard), hard))


def _change_root(folder: Path) -> None:
    _mount("none", "/", None, _RECURSIVE | _PRIVATE)
    _mount("none", folder, "tmpfs", _NO_SUID | _NO_DEV, "mode=755,size=1m")
    _furnish(folder)
    os.chdir(folder)
    _call("syscall", _PIVOT_ROOT[os.uname().machine], b".", b".")
    _call("umount2", b".", _DETACH)
    os.chdir("/")
    _mount("none", "/", None, _REMOUNT | _BIND | _READ_ONLY | _NO_SUID | _NO_DEV)
    os.chdir(SCRATCH)


def _furnish(folder: Path) -> None:
    """Interpreter and libraries, three devices, an empty scratch folder; nothing else exists."""
    for source in _libraries():
        target = folder / source.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            target.symlink_to(source.readlink())
        elif source.is_dir():
            target.mkdir(exist_ok=True)
            _show(source, target)
        else:
            target.touch()
            _show(source, target)
    for device in DEVICES:
        target = folder / device.relative_to("/")
        target.parent.mkdir(exist_ok=True)
        target.touch()
        _mount(device, target, None, _BIND)
    scratch = folder / SCRATCH.relative_to("/")
    scratch.mkdir(parents=True, exist_ok=True)
    sizes = f"mode=777,size={SCRATCH_BYTES},nr_inodes={SCRATCH_FILES}"
    _mount("none", scratch, "tmpfs", _NO_SUID | _NO_DEV | _NO_EXEC, sizes)


def _libraries() -> list[Path]:
    """What Python needs to run and import, outermost first, nothing twice."""
    wanted = ["/usr", "/lib", "/lib64", "/etc/ld.so.cache", sys.base_prefix, sys.prefix]
    found: list[Path] = []
    for path in sorted({Path(name) for name in wanted}, key=lambda path: len(path.parts)):
        if path.exists() and not any(path.is_relative_to(other) for other in found):
            found.append(path)
    return found


def _show(source: Path, target: Path) -> None:
    """Makes ``source`` visible at ``target``, read-only; flags the kernel has locked are kept."""
    _mount(source, target, None, _BIND | _RECURSIVE)
    locked = os.statvfs(target).f_flag
    times = {os.ST_NOATIME: 1 << 10, os.ST_NODIRATIME: 1 << 11, os.ST_RELATIME: 1 << 21}
    flags = locked & _NO_EXEC | sum(flag for stat, flag in times.items() if locked & stat)
    _mount("none", target, None, _REMOUNT | _BIND | _READ_ONLY | _NO_SUID | _NO_DEV | flags)


def _permit(ruleset: int, path: Path, access: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    rule = ctypes.create_string_buffer(struct.pack("=Qi", access, descriptor), 12)
    _call("syscall", _LANDLOCK_ADD, ruleset, 1, rule, 0)  # 1: everything beneath a path
    os.close(descriptor)


def drop_capabilities() -> None:
    """Keeps none, whatever the user."""
    header = struct.pack("Ii", _CAPABILITIES_V3, 0)
    _call("capset", ctypes.create_string_buffer(header), ctypes.create_string_buffer(24))


def _maps(path: Path, identity: int) -> bool:
    """Whether a user or group exists in this namespace, by ``/proc/self/uid_map``."""
    rows = [list(map(int, line.split())) for line in path.read_text("ascii").splitlines()]
    return any(first <= identity < first + count for first, _, count in rows)


def _capable(wanted: int) -> bool:
    """Whether this process has all capabilities of a mask."""
    status = Path("/proc/self/status").read_text("ascii", "replace")
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return int(effective.split()[1], 16) & wanted == wanted


def _mount(
    source: str | Path, target: str | Path, kind: str | None, flags: int, data: str = ""
) -> None:
    encoded = [None if text is None else str(text).encode() for text in (source, target, kind)]
    _call("mount", *encoded, ctypes.c_ulong(flags), data.encode() or None)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
