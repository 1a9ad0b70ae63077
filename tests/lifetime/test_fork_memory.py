# SPDX-License-Identifier: Apache-2.0
"""Memory for code after forks: it is used again, and never while another process has code there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import refused_calls
from compilation import Compiler
from conftest import RunScript
from folders import HELPERS
from forking import FORK
from instances import matrix_but
from processors import needs_address_space_limit

# A number takes the place of MAGIC, in the code and in the constants.
SOURCE = """
#include "processor.h"
#include "safe_call.h"
#define MAGIC 0x1122334455667788
static const int64_t table[SIZE] = {[0 ... SIZE - 1] = MAGIC};
EXPORT(difference) {
  int64_t number;
  HOLD(0x1122334455667788, number);
  RETURN(table[INT(0)] - number);
}
EXPORT(number) { RETURN(table[INT(0)]); }
int64_t spin(volatile int64_t* end) {
  for (int64_t count = 1;; ++count) {
    for (int i = 0; i < SIZE; ++i) {
      if (((volatile const int64_t*)table)[i] != MAGIC) return -1;
    }
    if (*end) return count;
  }
}
"""
NUMBERED = (
    FORK
    + """
import os, random, resource

template = open(sys.argv[1], "rb").read()
magic = 0x1122334455667788 .to_bytes(8, "little")
assert template.count(magic) > 40
last_number = 1 << 50


class Loaded:
    def __init__(self, session):
        global last_number
        last_number += random.randrange(1, 1000)
        self.number = last_number
        self.dylib = session.load(template.replace(magic, self.number.to_bytes(8, "little")))
        self.difference, self.get = self.dylib["difference"], self.dylib["number"]
        self.address = self.dylib.lookup("__tvm_ffi_number")
        self.check()

    def check(self):
        assert self.difference(3) == 0
        assert self.get(0) == self.get(39) == self.number

    def spin(self):
        return Spinning(self)


class Spinning:
    '''A thread that is in the code, and reads its constants, without the interpreter's lock.'''

    def __init__(self, loaded):
        self.end = ctypes.c_int64(0)
        spin = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(loaded.dylib.lookup("spin"))
        self.loaded, self.result = loaded, None
        self.thread = threading.Thread(target=self.run, args=(spin,), daemon=True)
        self.thread.start()

    def run(self, spin):
        self.result = spin(ctypes.addressof(self.end))

    def stop(self):
        self.end.value = 1
        self.thread.join()
        assert self.result > 0, self.result


def address_space():
    return int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


class Child:
    '''A forked process that checks all that it has inherited each time it is asked.'''

    def __init__(self, check):
        asked, ask = os.pipe()
        answered, answer = os.pipe()

        def work():
            os.close(ask)
            os.close(answered)
            while os.read(asked, 1) == b"?":
                check()
                os.write(answer, b"1")

        self.pid = fork(work)
        os.close(asked)
        os.close(answer)
        self.to, self.back = ask, answered

    def ask(self):
        os.write(self.to, b"?")

    def answer(self):
        assert os.read(self.back, 1) == b"1"

    def end(self):
        os.write(self.to, b".")  # later children have the pipe, too
        os.close(self.to)
        os.close(self.back)
        wait(self.pid)
"""
)


@pytest.fixture(scope="module")
def numbered(compile: Compiler) -> Path:
    """Return an object of which any number of different ones are made."""
    return compile(SOURCE, "-O1", "-fPIC", "-DSIZE=40")


@pytest.mark.parametrize("kept", matrix_but([0, 1, 10, 400], 10))
def test_forks_cost_no_address_space(numbered: Path, run_script: RunScript, kept: int) -> None:
    """After each of 400 forks something is loaded and, but for what is kept, dropped."""
    script = """
session = tol.Session()
most = int(sys.argv[2])
kept = [Loaded(session)]
before, reserved = address_space(), session.stats().bytes_reserved
for _ in range(400):
    wait(fork(lambda: kept[0].check()))
    kept.append(Loaded(session))
    if len(kept) > most:
        del kept[0]
for loaded in kept:
    loaded.check()
print((address_space() - before) >> 20, (session.stats().bytes_reserved - reserved) >> 20)
"""
    address_space, reserved = run_script(NUMBERED + script, numbered, kept + 1).split()
    assert int(address_space) < 100
    assert int(reserved) < 40


def test_children_cost_no_address_space(numbered: Path, run_script: RunScript) -> None:
    """The same, while children live on that call what they have inherited."""
    script = """
session = tol.Session()
kept = [Loaded(session) for _ in range(20)]
before = address_space()
children = []


def check_all():
    for loaded in kept:
        loaded.check()


for round in range(60):
    children.append(Child(check_all))
    del kept[round % 20]
    kept.insert(round % 20, Loaded(session))
    for child in children:
        child.ask()
    check_all()
    for child in children:
        child.answer()
    if len(children) == 8:
        children.pop(random.randrange(8)).end()
for child in children:
    child.end()
print((address_space() - before) >> 20)
"""
    assert int(run_script(NUMBERED + script, numbered)) < 40


# Each process loads and unloads where the other ones have code, and looks at all of its own.
CHURN = """
def churn(session, kept, deeper, rounds):
    spinning = [kept[0].spin(), kept[1].spin()]
    old = {loaded.address for loaded in kept}
    reused = 0
    children = []
    for round in range(rounds):
        if deeper and round % 5 == 0:
            random.seed(round + deeper)

            def work():
                global last_number
                last_number += (1 + round) << (40 - 4 * deeper)  # others than the parent's
                # The threads are the parent's.
                churn(session, kept, deeper - 1, rounds // 2)

            children.append(fork(work))
        for _ in range(10):
            del kept[random.randrange(2, len(kept))]
        for _ in range(10):
            kept.append(Loaded(session))
            reused += kept[-1].address in old
        for loaded in kept:
            loaded.check()
    for child in children:
        wait(child)
    for loaded in kept:
        loaded.check()
    for thread in spinning:
        thread.stop()
    assert reused > 0


session = tol.Session()
churn(session, [Loaded(session) for _ in range(200)], int(sys.argv[2]), 20)
session.close()
print(session.stats().bytes_reserved)
"""


@pytest.mark.parametrize("deep", [1, 2])
def test_processes_load_where_others_have_code(
    numbered: Path, run_script: RunScript, deep: int
) -> None:
    assert run_script(NUMBERED + CHURN, numbered, deep) == "0\n"


@pytest.mark.slow
def test_code_runs_while_its_memory_is_replaced(numbered: Path, run_script: RunScript) -> None:
    """Forks, loads, and threads that are in loaded code all the time."""
    script = """
session = tol.Session()
kept = [Loaded(session) for _ in range(4)]
reserved = session.stats().bytes_reserved
spinning = [loaded.spin() for loaded in kept]
end = time.monotonic() + 3
forks = 0
while time.monotonic() < end:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    loaded = Loaded(session)
    os.waitpid(pid, 0)
    forks += 1
for thread in spinning:
    thread.stop()
assert session.stats().bytes_reserved == reserved
print(forks > 20)
"""
    assert run_script(NUMBERED + script, numbered) == "True\n"


def test_much_that_is_in_use_is_left_shared(compile: Compiler, run_script: RunScript) -> None:
    script = """
session = tol.Session()


def after_fork():
    wait(fork(lambda: [loaded.check() for loaded in kept]))
    before = session.stats().bytes_reserved
    kept.append(Loaded(session))
    return session.stats().bytes_reserved > before


kept = [Loaded(session) for _ in range(20)]
much = after_fork()
del kept[:-2]
little = after_fork()
for loaded in kept:
    loaded.check()
print(much, little)
"""
    path = compile(SOURCE, "-O1", "-fPIC", "-DSIZE=10000")
    assert run_script(NUMBERED + script, path) == "True False\n"


def test_what_one_process_lets_go_stays_in_the_other(
    compile: Compiler, run_script: RunScript
) -> None:
    """Pages go back to the system when much is let go, but not those of another process."""
    script = """
session = tol.Session()
kept = [Loaded(session) for _ in range(20)]


def check_all():
    for loaded in kept:
        loaded.check()


child = Child(check_all)
wait(fork(kept.clear))
wait(fork(session.close))
check_all()
del kept[1:]
child.ask()
child.answer()
check_all()
kept.clear()
session.close()
child.ask()
child.answer()
child.end()
"""
    run_script(NUMBERED + script, compile(SOURCE, "-O1", "-fPIC", "-DSIZE=10000"))


@needs_address_space_limit
def test_memory_runs_out_after_a_fork(numbered: Path, run_script: RunScript) -> None:
    script = """
session = tol.Session()
kept = [Loaded(session) for _ in range(50)]
outcomes = []
for megabytes in [*range(26), 30, 40, 60]:
    def work():
        spinning = kept[0].spin()  # its stack, too, is there before
        reserved = session.stats().bytes_reserved  # before: its first use imports what it needs
        resource.setrlimit(resource.RLIMIT_AS, (address_space() + (megabytes << 20), -1))
        try:
            Loaded(session)
        except MemoryError:
            print("refused", flush=True)
        else:
            more = session.stats().bytes_reserved > reserved
            print("another" if more else "same", flush=True)
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
        del kept[10:20]
        kept.extend(Loaded(session) for _ in range(20))
        for loaded in kept:
            loaded.check()
        spinning.stop()

    wait(fork(work))
    for loaded in kept:
        loaded.check()
"""
    outcomes = run_script(NUMBERED + script, numbered).split()
    assert outcomes[0] == "refused"
    assert outcomes[-1] == "same"
    assert "another" in outcomes


@pytest.mark.skipif(refused_calls.why_not() != "", reason=refused_calls.why_not() or "can")
@pytest.mark.parametrize("refused", ['Refused("mremap")', "MAPPED_TWICE, FILE_IN_MEMORY"])
def test_memory_that_cannot_be_replaced(
    numbered: Path, run_script: RunScript, refused: str
) -> None:
    script = """
from refused_calls import *

session = tol.Session()
kept = [Loaded(session) for _ in range(50)]
refuse(REFUSED)
child = Child(lambda: [loaded.check() for loaded in kept])
spinning = kept[0].spin()
del kept[10:20]
kept.extend(Loaded(session) for _ in range(20))
child.ask()
child.answer()
child.end()
for loaded in kept:
    loaded.check()
spinning.stop()
""".replace("REFUSED", refused)
    path = os.pathsep.join([str(HELPERS), os.environ.get("PYTHONPATH", "")])
    run_script(NUMBERED + script, numbered, PYTHONPATH=path)
