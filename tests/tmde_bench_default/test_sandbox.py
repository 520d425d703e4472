"""Foreign code is confined: it ends in time, reaches nothing, and cannot claim what it has not worked out."""

import asyncio
import os
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import psutil
import pytest

from tmde_bench_default.checks import confined, sandbox
from tmde_bench_default.checks.code import extract_code, make_probes, run_tests
from tmde_bench_default.checks.sandbox import run_confined
from tmde_core.errors import InvalidInputError
from tmde_core.sdk.judges import CodeCheck

CHECK = CodeCheck(tests=("assert f(4) == 8", "assert f(0) == 0"), seconds=5.0)
BRIEF = CodeCheck(tests=CHECK.tests, seconds=1.0)


async def run(code, check=CHECK):
    return await run_tests(f"```python\n{textwrap.dedent(code).strip()}\n```", check)


def descendants():
    return [one for one in psutil.Process().children(recursive=True) if confines(one)]


def confines(process):
    try:
        return "confined" in " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return False


async def test_right_code_passes_and_the_standard_library_is_there():
    told = await run("""
        import collections, dataclasses, datetime, decimal, functools, itertools, json, math, random, re, statistics, string, typing
        def f(x):
            return math.floor(x * 2)
        if __name__ == "__main__":
            raise SystemExit(1)
    """)
    assert (told.passed, told.tests, told.failure) == (2, 2, "")


async def test_the_score_is_the_share_of_tests_passed_and_the_first_failure_is_told():
    told = await run("def f(x): return x + 4")
    assert (told.passed, told.tests) == (1, 2)
    assert told.failure == "assert f(0) == 0: it gave 4"


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "def f(x):\n    while True: pass",
        "def f(x):\n    while True:\n        try:\n            while True: pass\n        except BaseException: pass",
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\ndef f(x):\n    while True: pass",
        "import time\ndef f(x): time.sleep(60)",
    ],
    ids=["at once", "in a function", "catching everything", "signals blocked", "asleep"],
)
async def test_endless_code_is_stopped_and_leaves_nothing(code):
    told = await run(code, CodeCheck(tests=CHECK.tests, seconds=0.4))
    assert told.passed == 0
    assert descendants() == []


async def test_one_test_that_hangs_does_not_cost_the_others():
    told = await run("def f(x):\n    while x: pass\n    return 0", BRIEF)
    assert told.passed == 1


@pytest.mark.parametrize(
    "code",
    [
        "x = 'a' * 10**10",
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return f(x)",
        "import os\nwhile True: os.fork()",
        "import threading\nwhile True: threading.Thread(target=lambda: None).start()",
        "import multiprocessing\nmultiprocessing.Process(target=print).start()",
        "import subprocess\nsubprocess.run(['true'])",
        "import os\nos.system('true')",
        "import os\nos.execv('/bin/true', ['true'])",
        "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)",
        "import os\nos.kill(-1, 9)",
        "import sys\nsys.exit(0)",
        "import os\nos._exit(0)",
        "import ctypes\nctypes.string_at(0)",
        "open('/etc/passwd').read()",
        "import os\nos.listdir('/')",
        "import os\nos.open('/proc/self/environ', os.O_RDONLY)",
        "import os\nos.chmod('/tmp', 0o777)",
        "import os\nos.symlink('/etc/passwd', 'x'); open('x').read()",
        "import os, stat\nos.mknod('zero', stat.S_IFCHR | 0o600, os.makedev(1, 5))",
        "import os\nos.mkfifo('fifo')",
        "import os\nfor n in range(2000): os.mkdir('a'); os.chdir('a')",
        "import glob, os\nopen((glob.glob(os.path.dirname(os.__file__) + '/site-packages/*/*.py') or ['/etc/hostname'])[0])",
        "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (99, 99))",
        "for n in range(100): open(str(n), 'w')",
        "open('big', 'w').write('x' * 10**7)",
        "def f(x) return",
        "f = None",
    ],
)
async def test_what_is_not_allowed_fails_and_nothing_else(code):
    told = await run(code + "\ndef f(x): return x * 2" if "f(x)" not in code and code != "f = None" else code, BRIEF)
    assert told.passed == 0
    assert descendants() == []


@pytest.mark.parametrize(
    "code",
    [
        "class Any:\n    def __eq__(self, other): return True\ndef f(x): return Any()",
        "class Any(str):\n    def __eq__(self, other): return True\ndef f(x): return Any('x')",
        "import builtins\nbuiltins.__dict__['AssertionError'] = BaseException\ndef f(x): return 1",
        "import builtins, sys\nfor name in ('exec', 'compile', 'isinstance', 'type'): setattr(builtins, name, lambda *a, **k: True)\ndef f(x): return 1",
        'import os\nfor n in range(3, 40):\n    try: os.write(n, b\'["value", ["plain", true]]\\n\')\n    except OSError: pass\nos._exit(0)',
        "import os\nfor n in range(3, 40):\n    try: os.write(n, b'passed\\n')\n    except OSError: pass\ndef f(x): return 1",
        "import sys\ndef f(x):\n    for depth in range(9):\n        try: sys._getframe(depth).f_globals['__probe__'] = lambda value: None\n        except ValueError: pass\n    return 1",
        "def f(x):\n    return globals()",
        "def f(x):\n    return float('nan')",
    ],
)
async def test_code_cannot_claim_to_have_passed(code):
    assert (await run(code)).passed == 0


@pytest.mark.parametrize(
    "sent", ['["float", "0x1p99999"]', '["int", "9e9"]', '["int", []]', '["set", [["list", []]]]', "[" * 5000]
)
async def test_what_is_no_value_is_wrong_and_leaves_no_answer_without_a_verdict(sent):
    told = await run(f"""
        import os, sys
        def f(x):
            frame = sys._getframe()
            while frame.f_code.co_name != "_child":
                frame = frame.f_back
            os.write(frame.f_locals["pipe"], b'["value", ' + {sent.encode()!r} + b"]\\n")
            os._exit(0)
    """)
    assert (told.passed, told.failure) == (0, "assert f(4) == 8: it sent something that is no value")


async def test_huge_output_is_thrown_away_and_a_huge_value_is_not_read():
    assert (await run("print('x' * 10**6)\ndef f(x): return x * 2")).passed == 2
    assert (await run("def f(x): return 'x' * 10**7")).passed == 0


async def test_a_file_in_its_own_directory_is_allowed_and_gone_afterwards(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox.tempfile, "tempdir", str(tmp_path))
    told = await run("open('a', 'w').write('8')\ndef f(x): return int(open('a').read()) if x else 0")
    assert told.passed == 2
    assert list(tmp_path.iterdir()) == []


async def test_nothing_is_written_outside_and_no_environment_is_seen(tmp_path, monkeypatch):
    monkeypatch.setenv("TMDE_SECRET", "hunter2")
    aim = tmp_path / "evil"
    told = await run(f"open({str(aim)!r}, 'w').write('x')\ndef f(x): return x * 2")
    assert told.passed == 0
    assert not aim.exists()
    check = CodeCheck(tests=("assert seen() == 'no'", "assert given() == ''"))
    code = (
        "import os, sys\ndef seen(): return os.environ.get('TMDE_SECRET', 'no')\ndef given(): return sys.stdin.read()"
    )
    assert (await run(code, check)).passed == 2


async def test_no_connection_is_made():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        told = await run(f"import socket\nsocket.create_connection(('127.0.0.1', {port}))\ndef f(x): return x * 2")
        assert told.passed == 0
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.skipif(sys.platform != "linux", reason="Landlock and seccomp are Linux's")
@pytest.mark.parametrize(
    ("layer", "deed"),
    [
        ("_landlock(libc, home, confined_readable)", "open('/etc/hostname').read()"),
        ("_landlock(libc, home, confined_readable)", "open('/tmp/tmde-never', 'w')"),
        ("_landlock(libc, home, confined_readable)", "os.listdir('/root')"),
        ("_landlock(libc, home, confined_readable)", "open((glob.glob(PACKAGES) or ['/etc/hostname'])[0])"),
        ("_landlock(libc, home, confined_readable)", "os.mkdir(home + '/deeper')"),
        ("_landlock(libc, home, confined_readable)", "os.mkfifo(home + '/fifo')"),
        (
            "_landlock(libc, home, confined_readable)",
            "os.mknod(home + '/disk', stat.S_IFBLK | 0o600, os.makedev(8, 0))",
        ),
        ("_incapable(libc)", "os.mknod(home + '/zero', stat.S_IFCHR | 0o600, os.makedev(1, 5))"),
        ("_incapable(libc)", "os.chroot(home)"),
        ("_seccomp(libc)", "os.mkdir(home + '/deeper')"),
        ("_seccomp(libc)", "os.symlink('/etc/passwd', home + '/link')"),
        ("_seccomp(libc)", "os.mknod(home + '/zero', stat.S_IFCHR | 0o600, os.makedev(1, 5))"),
        ("_seccomp(libc)", "socket.socket()"),
        ("_seccomp(libc)", "os.fork()"),
        ("_seccomp(libc)", "os.execv('/bin/true', ['true'])"),
        ("_seccomp(libc)", "os.kill(os.getpid(), 0)"),
        ("_seccomp(libc)", "os.chmod(home, 0o700)"),
        ("_seccomp(libc)", "threading.Thread(target=print).start()"),
    ],
)
def test_the_kernel_refuses_by_itself_without_the_audit_hook(tmp_path, layer, deed):
    program = f"""
import ctypes, glob, os, runpy, socket, stat, sys, threading
PACKAGES = os.path.dirname(os.__file__) + "/site-packages/*/*.py"
space = runpy.run_path({confined.__file__!r})
libc, home = ctypes.CDLL(None, use_errno=True), {str(tmp_path)!r}
libc.prctl(38, 1, 0, 0, 0)
confined_readable = tuple(path for path in (*sys.path, *space["READABLE"]) if path)
layer = space[{layer.split("(")[0]!r}]
print("held" if layer({layer.split("(", 1)[1]} else "missing", flush=True)
open(os.path.join(home, "own"), "w").write("x")
try:
    {deed}
except (PermissionError, RuntimeError) as error:
    print("refused", flush=True)
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    said = done.stdout.split()
    if said[:1] == ["missing"]:
        pytest.skip("this kernel has no such layer")
    assert said == ["held", "refused"], done.stderr


async def test_a_child_says_which_layers_hold():
    (reply,) = await run_confined("", ["__probe__(1)"], 5.0)
    assert reply.ended
    assert '["limits"' in reply.lines[0]
    assert '"audit"]]' in reply.lines[0]


async def test_at_most_two_run_at_once_and_the_loop_goes_on():
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    most = 0
    jobs = [asyncio.create_task(run("import time\ntime.sleep(0.2)\ndef f(x): return x * 2")) for _ in range(5)]
    while not all(job.done() for job in jobs):
        await asyncio.sleep(0.01)
        mine = [one for one in psutil.Process().children() if confines(one)]
        most = max(most, len(mine))
    ticking.cancel()
    assert [job.result().passed for job in jobs] == [2] * 5
    assert most <= sandbox.AT_ONCE
    assert ticks > 5


async def test_a_cancelled_check_leaves_no_process():
    job = asyncio.create_task(run("while True: pass", CodeCheck(tests=CHECK.tests, seconds=20)))
    while not descendants():
        await asyncio.sleep(0.01)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert descendants() == []


def test_it_works_in_every_event_loop():
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(asyncio.run(run("def f(x): return x * 2")))) for _ in "ab"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.passed for result in results] == [2, 2]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("Here:\n```python\na = 1\n```\nDone.", "a = 1"),
        ("```python\ndef f(): pass\n```\nUse:\n```python\nf()\n```", "def f(): pass"),
        ("```python\ndef f(): 1\n```\nBetter:\n```py\ndef f(): 2\n```", "def f(): 2"),
        ("```\ndef f(): pass\n```\n```bash\nls\n```", "def f(): pass"),
        ("```python\ndef f():\n    pass", "def f():\n    pass"),
        ("Sure!\n\ndef f():\n    pass", "def f():\n    pass"),
        ("x = 1", "x = 1"),
    ],
)
def test_the_program_of_an_answer(answer, code):
    assert extract_code(answer) == code


@pytest.mark.parametrize("test", ["", "x = 1", "assert", "assert (", "\x00"])
def test_a_test_that_tests_nothing_is_refused(test):
    with pytest.raises(InvalidInputError):
        make_probes(test)


def test_what_is_wanted_stays_at_home():
    assert "8" not in make_probes("assert f(4) == 8").source
    assert "secret" not in make_probes("a = f(1)\nassert a in ('secret', 'word')").source


async def test_no_code_at_all_is_wrong_and_not_an_error():
    assert (await run_tests("I cannot program.", CHECK)).passed == 0
    assert (await run_tests("```python\n```", CHECK)).passed == 0
    assert (await run_tests("def f(x): return 1 #" + "x" * 30_000, CHECK)).passed == 0


def test_the_program_of_the_sandbox_needs_nothing_but_the_standard_library():
    done = subprocess.run(
        [sys.executable, "-I", "-S", confined.__file__],
        input=b'{"code": "", "tests": [], "seconds": 1}',
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"[]"
    assert os.access(Path(confined.__file__), os.R_OK)
