"""Programs that try to pass ``add(1, 2) == 3`` without adding, or to get out of the jail."""

RIGHT = """\
def add(a, b):
    return a + b
"""
WRONG = """\
def add(a, b):
    return 0
"""

ESCAPES = {
    "exit in a function": """\
import sys
def add(a, b):
    sys.exit(0)
""",
    "hard exit in a function": """\
import os
def add(a, b):
    os._exit(0)
""",
    "assertion error replaced": """\
import builtins
builtins.AssertionError = type('A', (Exception,), {})
"""
    + WRONG,
    "exec replaced": """\
import builtins
builtins.exec = builtins.compile = lambda *a, **k: None
"""
    + WRONG,
    "check replaced": """\
import sys
def check(candidate): pass
"""
    + WRONG,
    "equals everything": """\
class All:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 3
    def __sub__(self, other): return 0
def add(a, b):
    return All()
""",
    "integer that equals everything": """\
class All(int):
    def __eq__(self, other): return True
    __hash__ = int.__hash__
def add(a, b):
    return All(0)
""",
    "list that equals everything": """\
class All(list):
    def __eq__(self, other): return True
def add(a, b):
    return All()
""",
    "frames": """\
import sys
frame = sys._getframe()
while frame:
    frame.f_globals.update(verdict=lambda *a: ('passed', ''), _death=lambda *a: ('passed', ''))
    frame.f_locals['status'] = 'passed'
    frame = frame.f_back
"""
    + WRONG,
    "trace": """\
import sys
sys.settrace(lambda *a: None)
sys.setprofile(lambda *a: None)
"""
    + WRONG,
    "excepthook and atexit": """\
import atexit, sys, os
sys.excepthook = lambda *a: os._exit(0)
atexit.register(os._exit, 0)
"""
    + WRONG,
    "every descriptor": """\
import os
for fd in range(3, 256):
    try: os.write(fd, b'{"status": "passed", "detail": "", "nonce": ""}\\n')
    except OSError: pass
"""
    + WRONG,
    "the channel closed": """\
import os
os.close(3)
"""
    + WRONG,
    "a broken message": """\
import os
def add(a, b):
    os.write(3, b'\\0\\0\\0\\2[]')
""",
    "an answer of its own": """\
import os, json
def add(a, b):
    m = json.dumps({'result': {'handle': 'x'}, 'changed': [None, None]}).encode()
    os.write(3, len(m).to_bytes(4, 'big') + m)
""",
    "a length without end": """\
import os
def add(a, b):
    os.write(3, b'\\xff\\xff\\xff\\xff')
""",
    "memory searched": """\
import gc
found = [o for o in gc.get_objects() if isinstance(o, dict) and 'nonce' in o]
assert not found, 'nonce'
"""
    + WRONG,
    "the parent killed": """\
import os, signal
for pid in (os.getppid(), 1, -1):
    try: os.kill(pid, signal.SIGKILL)
    except OSError: pass
"""
    + WRONG,
    "its own process killed": """\
import os, signal
os.kill(os.getpid(), signal.SIGKILL)
""",
    "stack overflow": """\
import sys
sys.setrecursionlimit(10**8)
def add(a, b):
    return add(a, b)
""",
    "modules poisoned": """\
import sys
for name in list(sys.modules):
    if 'jail' in name: sys.modules[name].__dict__.clear()
"""
    + WRONG,
    "fork": """\
import os
if os.fork():
    os._exit(0)
"""
    + WRONG,
    "fork bomb": """\
import os
while True:
    os.fork()
""",
    "threads that do not join": """\
import threading, time
for _ in range(5):
    threading.Thread(target=time.sleep, args=(99,)).start()
"""
    + WRONG,
    "shell": """\
import subprocess
subprocess.run(['true'], check=True)
"""
    + RIGHT,
    "exec of another program": """\
import os
os.execv('/bin/true', ['true'])
""",
    "daemon": """\
import os
os.setsid()
"""
    + RIGHT,
    "ctypes": """\
import ctypes
ctypes.CDLL(None).ptrace(16, 1, 0, 0)
ctypes.string_at(0)
""",
    "builtin shadowed": """\
def abs(x): return 0
"""
    + WRONG,
    "a name without end": """\
def add(a, b):
    raise type('A' * 300_000, (Exception,), {})
""",
    "folders without bottom": """\
import os
for _ in range(3000):
    os.mkdir('d')
    os.chdir('d')
"""
    + WRONG,
    "folders that forbid themselves": """\
import os
os.umask(0)
os.mkdir('a')
os.mkdir('a/b', 0)
os.mkdir('c', 0)
os.symlink('/', 'd')
"""
    + WRONG,
    "a thread of the judge killed": """\
import ctypes, os
judge, number = os.getppid(), 234 if os.uname().machine == 'x86_64' else 131
assert ctypes.CDLL(None).syscall(number, judge, judge, 9) < 0
"""
    + WRONG,
    "datagrams": """\
import socket
one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
one.sendto(b'x', '/dev/log')
"""
    + RIGHT,
    "the death signal turned off": """\
import ctypes
assert ctypes.CDLL(None).prctl(1, 0, 0, 0, 0) == 0
"""
    + RIGHT,
    "modules that act when imported": """\
import types
browser, window = types.ModuleType('antigravity'), types.ModuleType('idlelib.idle')
"""
    + WRONG,
    "a fraction without end": """\
import json, os
def add(a, b):
    m = json.dumps({'result': {'Fraction': '1e2000000000'}, 'changed': [None, None]}).encode()
    os.write(3, len(m).to_bytes(4, 'big') + m)
""",
}
