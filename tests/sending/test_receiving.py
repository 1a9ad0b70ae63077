# SPDX-License-Identifier: Apache-2.0
"""What a receiving process does: it links the same once, keeps it, and says what is wrong."""

from __future__ import annotations

import gc
import itertools
import logging
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler
from conftest import RunScript, Trace
from processors import OTHER, PROCESSOR
from tvm_ffi_object_loader import _native, _received, recipes
from tvm_ffi_object_loader.recipes import Part, Recipe, digest_of
from tvm_ffi_object_loader.transport import restore_function

TRACED = """
#include "safe_call.h"
#include "trace.h"
__attribute__((constructor)) static void init(void) { trace(EVENT); }
__attribute__((destructor)) static void fini(void) { trace(-EVENT); }
EXPORT(event) { RETURN(EVENT); }
"""

Send = Callable[..., bytes]

pytestmark = pytest.mark.usefixtures("nothing_received")


@pytest.fixture
def send(compile: Compiler) -> Send:
    """Return a pickled function that traces a number where it is received; nobody has it here."""

    def make(event: int = 1, name: str | None = None, source: str = TRACED) -> bytes:
        with tol.Session() as session:
            path = compile(source, "-O1", "-fPIC", f"-DEVENT={event}")
            return pickle.dumps(session.load(path, name=name)["event"])

    return make


def dylib_of(function: tvm_ffi.Function) -> tol.Dylib:
    owner = _native.owner_of(function)
    assert owner is not None
    return tol.Session._of(owner[0].session)._wrap(owner[0])


def session_of(function: tvm_ffi.Function) -> tol.Session:
    return dylib_of(function).session


def test_the_same_is_linked_once(send: Send, trace: Trace) -> None:
    data = send()
    trace.take()
    functions = [pickle.loads(data) for _ in range(3)]
    assert functions[0] == functions[1] == functions[2]
    assert trace.take() == [1]
    assert [function() for function in functions] == [1, 1, 1]


def test_what_was_received_stays_loaded(send: Send, trace: Trace) -> None:
    data = send()
    trace.take()
    assert pickle.loads(data)() == 1
    gc.collect()
    assert pickle.loads(data)() == 1
    assert trace.take() == [1]


def test_its_session(send: Send) -> None:
    dylib = dylib_of(pickle.loads(send(name="math")))
    assert dylib.name == "math"
    assert dylib.session.name == "received"
    assert dylib.session.picklable
    assert dylib.session["math"] is dylib
    assert dylib.session is session_of(pickle.loads(send(2)))
    assert dylib.session is not tol.default_session()


def test_so_many_stay_loaded(send: Send, trace: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_received, "MOST_DYLIBS", 2)
    data = {event: send(event) for event in (1, 2, 3)}
    trace.take()
    assert [pickle.loads(data[event])() for event in (1, 2, 1, 3)] == [1, 2, 1, 3]
    gc.collect()
    assert trace.take() == [1, 2, 3, -2]  # the one that was longest ago
    held = pickle.loads(data[2])
    assert trace.take() == [2, -1]
    assert [pickle.loads(data[event])() for event in (1, 3)] == [1, 3]
    assert trace.take() == [1, -3, 3]
    assert pickle.loads(data[2]) == held  # since somebody has it
    assert trace.take() == [-1]


def test_so_many_bytes_stay_loaded(
    send: Send, trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {event: send(event) for event in (1, 2, 3)}
    trace.take()
    pickle.loads(data[1])
    monkeypatch.setattr(_received, "MOST_BYTES", 2 * _received._kept_bytes)
    for event in (2, 3):
        pickle.loads(data[event])
    gc.collect()
    assert trace.take() == [1, 2, 3, -1]
    monkeypatch.setattr(_received, "MOST_BYTES", 1)
    pickle.loads(data[1])
    gc.collect()
    assert sorted(trace.take()) == [-3, -2, 1]  # one stays in any case


def test_threads_that_receive_at_once_link_once(send: Send, trace: Trace) -> None:
    data = [send(event) for event in (1, 2, 3)]
    trace.take()
    received: list[tvm_ffi.Function] = []
    together = threading.Barrier(12)

    def receive(number: int) -> None:
        together.wait()
        received.append(pickle.loads(data[number % 3]))

    threads = [threading.Thread(target=receive, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(trace.take()) == [1, 2, 3]
    assert len(set(received)) == 3
    assert sorted(function() for function in received) == [1] * 4 + [2] * 4 + [3] * 4


def test_a_thread_waits_for_the_one_that_links(
    send: Send,
    called: Callable[[Callable[[], object]], None],
    trace: Trace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called(lambda: None)
    data = send(6, source=CALLS_BACK)
    waits = threading.Event()

    class Over(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.set()
            return super().wait(timeout)

    class Link(_received._Link):
        def __init__(self) -> None:
            super().__init__()
            self.is_over = Over()

    monkeypatch.setattr(_received, "_Link", Link)
    received: list[tvm_ffi.Function] = []
    other = threading.Thread(target=lambda: received.append(pickle.loads(data)))

    def receive_meanwhile() -> None:
        other.start()
        assert waits.wait(60)

    called(receive_meanwhile)
    trace.take()
    received.append(pickle.loads(data))
    other.join()
    assert trace.take() == [6]
    assert received[0] == received[1]


@pytest.mark.parametrize(
    "closes",
    [lambda f: session_of(f).close(), lambda f: dylib_of(f).close()],
    ids=["session", "dylib"],
)
def test_what_was_closed_is_linked_again(
    send: Send, trace: Trace, closes: Callable[[tvm_ffi.Function], None]
) -> None:
    data = send()
    trace.take()
    function = pickle.loads(data)
    closes(function)
    assert trace.take() == [1, -1]
    with pytest.raises(tol.SessionClosedError):
        function()
    assert pickle.loads(data)() == 1
    assert pickle.loads(data) != function
    assert trace.take() == [1]


def test_what_was_loaded_into_is_another_one(send: Send, add_object: Path) -> None:
    data = send(name="d")
    changed = dylib_of(pickle.loads(data)).load(add_object)
    function = pickle.loads(data)
    assert function != changed["event"]
    assert list(dylib_of(function)) == ["event"]
    assert dylib_of(function).name.startswith("d-")  # the name is taken


def test_names_that_are_taken(send: Send) -> None:
    data = [send(event, name="d") for event in (1, 2)]
    first, second = map(dylib_of, map(pickle.loads, data))
    assert first.name == "d"
    assert second.name == f"d-{_received.digest(second._native).hex()[:8]}"
    taken = second.session.create_dylib("d-")
    second.close()
    second = taken.session.create_dylib(second.name)
    assert dylib_of(pickle.loads(data[1])).name.startswith("dylib-")


def test_a_forked_child_links_nothing(run_script: RunScript, compile: Compiler) -> None:
    script = """
import ctypes, os, pickle, sys
import tvm_ffi_object_loader as tol
events = (ctypes.c_int64 * 64)()
os.environ["OBJECT_TRACE"] = str(ctypes.addressof(events))
dylib = tol.default_session().load(sys.argv[1])
data = pickle.dumps(dylib["event"])
if os.fork() == 0:
    function = pickle.loads(data)
    same = function == dylib["event"] and pickle.loads(pickle.dumps(dylib)) is dylib
    print(same, function(), list(events[: events[0] + 1]), flush=True)
    os._exit(0)
os.wait()
del os.environ["OBJECT_TRACE"]
"""
    path = compile(TRACED, "-O1", "-fPIC", "-DEVENT=5")
    assert run_script(script, path) == "True 5 [1, 5]\n"


def test_a_child_that_was_forked_while_a_thread_linked(
    run_script: RunScript, send: Send, tmp_path: Path
) -> None:
    (tmp_path / "pickled").write_bytes(send(6, source=CALLS_BACK))
    script = """
import os, pickle, sys, threading
from pathlib import Path
import tvm_ffi, tvm_ffi_object_loader
data = Path(sys.argv[1]).read_bytes()
linking, forked = threading.Event(), threading.Event()
parent = os.getpid()

@tvm_ffi.register_global_func("test_receiving.called")
def called():
    if os.getpid() == parent:
        linking.set()
        forked.wait()

thread = threading.Thread(target=pickle.loads, args=(data,))
thread.start()
linking.wait()
if os.fork() == 0:
    print(pickle.loads(data)(), flush=True)
    os._exit(0)
forked.set()
thread.join()
os.wait()
print(pickle.loads(data)())
"""
    assert run_script(script, tmp_path / "pickled") == "6\n6\n"


CALLS_BACK = """
#include "safe_call.h"
#include "trace.h"
static void call(void) {
  static const char name[] = "test_receiving.called";
  TVMFFIByteArray bytes = {name, sizeof(name) - 1};
  TVMFFIObjectHandle function;
  TVMFFIAny result = {0};
  if (TVMFFIFunctionGetGlobal(&bytes, &function) || !function) return;
  TVMFFIFunctionCall(function, 0, 0, &result);
}
__attribute__((constructor)) static void init(void) { trace(EVENT); call(); }
__attribute__((destructor)) static void fini(void) { trace(-EVENT); }
EXPORT(event) { RETURN(EVENT); }
"""


@pytest.fixture
def called() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Set what the initializers of CALLS_BACK call, once."""
    name = "test_receiving.called"

    def set_it(function: Callable[[], object]) -> None:
        def call() -> None:
            tvm_ffi.register_global_func(name, lambda: None, override=True)
            function()

        tvm_ffi.register_global_func(name, call, override=True)

    yield set_it
    tvm_ffi.remove_global_func(name)


def test_an_initializer_that_receives_itself(
    send: Send, called: Callable[[Callable[[], object]], None]
) -> None:
    errors: list[BaseException] = []
    called(lambda: None)
    data = send(7, name="d", source=CALLS_BACK)

    def receive() -> None:
        try:
            pickle.loads(data)
        except tol.ObjectLoaderError as error:
            errors.append(error)

    called(receive)
    assert pickle.loads(data)() == 7
    (error,) = errors
    assert "dylib 'd' was received from within its own initializers" in str(error)


def test_initializers_that_receive_each_other(
    send: Send, called: Callable[[Callable[[], object]], None]
) -> None:
    """Two threads link, and each needs what the other one links: neither waits for the other."""
    called(lambda: None)
    one, two = send(8, source=CALLS_BACK), send(9, source=CALLS_BACK)
    both = threading.Barrier(2)
    received: list[int] = []
    this = threading.local()

    def once_a_thread() -> None:
        if not hasattr(this, "was_here"):
            this.was_here = True
            both.wait()
            other = two if threading.current_thread().name == "one" else one
            received.append(pickle.loads(other)())

    tvm_ffi.register_global_func("test_receiving.called", once_a_thread, override=True)
    threads = [
        threading.Thread(target=lambda data=data: received.append(pickle.loads(data)()), name=name)
        for name, data in (("one", one), ("two", two))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(received) == [8, 8, 9, 9]


def test_symbols_that_the_receiving_process_lacks(
    run_script: RunScript, compile: Compiler, tmp_path: Path
) -> None:
    library = compile.link(compile("#include <stdint.h>\nint64_t only_in_the_sender = 5;\n"))
    source = """
#include "safe_call.h"
extern int64_t only_in_the_sender;
EXPORT(get) { RETURN(only_in_the_sender); }
"""
    script = """
import ctypes, os, pickle, sys
import tvm_ffi_object_loader as tol
path, library, pickled = sys.argv[1:4]
if os.fork() == 0:
    ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
    with open(pickled, "wb") as file:
        pickle.dump(tol.load_module(path).get, file)
    os._exit(0)
os.wait()
with open(pickled, "rb") as file:
    data = file.read()
for _ in range(2):
    try:
        pickle.loads(data)
    except tol.UndefinedSymbolError as error:
        print(error.symbols, path in str(error))
print(dict(tol._received._session.dylibs))
ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
print(pickle.loads(data)())
"""
    found = run_script(script, compile(source), library, tmp_path / "pickled")
    assert found == "('only_in_the_sender',) True\n" * 2 + "{}\n5\n"


def pickled_recipe(contents: bytes, name: str) -> bytes:
    """Return what a sender with such an object would have pickled."""
    loads = ((False, (("/sender/kernel.o", contents),)),)
    part = Part(digest_of((), loads), "kernel", (), loads)
    return pickle.dumps(_Restored(Recipe(0, [], (part,)), name))


class _Restored:
    def __init__(self, recipe: Recipe, name: str) -> None:
        self.recipe = recipe
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return restore_function, (self.recipe, self.name)


def test_an_object_for_another_processor(send: Send, add_object: Path) -> None:
    contents = bytearray(add_object.read_bytes())
    contents[18:20] = OTHER.header()
    data = pickled_recipe(bytes(contents), "add")
    for _ in range(2):
        with pytest.raises(tol.ObjectFormatError, match=rf"^/sender/kernel\.o: .*{OTHER.name}"):
            pickle.loads(data)
    assert _received._session is not None
    assert list(_received._session) == []
    assert PROCESSOR is not OTHER


def test_a_function_that_is_not_there(send: Send, add_object: Path) -> None:
    data = pickled_recipe(add_object.read_bytes(), "subtract")
    with pytest.raises(tol.FunctionNotFoundError, match="'kernel' has no function 'subtract'; it"):
        pickle.loads(data)


def test_damaged_contents(send: Send) -> None:
    data = send(name="d")
    place = data.index(b"\x7fELF") + 1000
    damaged = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
    with pytest.raises(pickle.UnpicklingError, match=r"dylib 'd' is not what was pickled: .* send"):
        pickle.loads(damaged)
    assert pickle.loads(data)() == 1


def test_a_recipe_that_lacks_a_part(send: Send, add_object: Path) -> None:
    loads = ((False, (("kernel.o", add_object.read_bytes()),)),)
    linked = (b"?" * 32,)
    part = Part(digest_of(linked, loads), "kernel", linked, loads)
    with pytest.raises(pickle.UnpicklingError, match="'kernel' is not what was pickled"):
        pickle.loads(pickle.dumps(_Restored(Recipe(0, [], (part,)), "add")))


def test_another_format(
    session: tol.Session, add_object: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dylib = session.load(add_object)
    monkeypatch.setattr(recipes, "FORMAT", 99)
    monkeypatch.setattr(recipes, "__version__", "9.8.7")
    data = pickle.dumps(dylib)
    monkeypatch.undo()
    says = "tvm-ffi-object-loader 9.8.7 has pickled this, in format 99; .* reads format 1: install"
    with pytest.raises(pickle.UnpicklingError, match=says):
        pickle.loads(data)


def test_a_receiver_without_the_package(run_script: RunScript, send: Send, tmp_path: Path) -> None:
    (tmp_path / "pickled").write_bytes(send())
    script = """
import pickle, sys
sys.modules["tvm_ffi_object_loader"] = None
with open(sys.argv[1], "rb") as file:
    try:
        pickle.load(file)
    except ImportError as error:
        print(error.name)
"""
    assert run_script(script, tmp_path / "pickled") == "tvm_ffi_object_loader.transport\n"


def test_what_was_received_is_sent_on(run_script: RunScript, send: Send, tmp_path: Path) -> None:
    """Of files that are gone, and in every process only once."""
    script = """
import pickle, sys
with open(sys.argv[1], "rb") as file:
    functions = [pickle.loads(data) for data in [file.read()] * 2]
with open(sys.argv[2], "wb") as file:
    pickle.dump(functions[1], file)
print(functions[0](), functions[0] == functions[1])
"""
    paths = [tmp_path / str(number) for number in range(3)]
    paths[0].write_bytes(send(4))
    for before, after in itertools.pairwise(paths):
        assert run_script(script, before, after) == "4 True\n"
    assert abs(len(paths[2].read_bytes()) - len(paths[0].read_bytes())) < 100


def test_closes_in_the_midst_of_it(send: Send) -> None:
    """Whatever is closed meanwhile, each function that is received was there, for a moment."""
    data = [send(event) for event in (1, 2)]
    is_over = threading.Event()
    results: list[object] = []

    def receive(number: int) -> None:
        while not is_over.is_set():
            function = pickle.loads(data[number % 2])
            try:
                results.append(function())
            except tol.SessionClosedError:
                results.append("closed")

    def receive_noting_errors(number: int) -> None:
        try:
            receive(number)
        except BaseException as error:
            results.append(error)

    threads = [threading.Thread(target=receive_noting_errors, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for number in range(200):
        session = _received._receiving_session()
        if number % 3 == 0:
            session.close()
        for dylib in list(session.dylibs.values()):
            dylib.close()
    is_over.set()
    for thread in threads:
        thread.join()
    assert set(results) <= {1, 2, "closed"}
    assert [pickle.loads(one)() for one in data] == [1, 2]


def test_closes_in_the_midst_of_pickling(compile: Compiler, add_object: Path) -> None:
    """It is pickled as it was, or the error says that it is closed."""
    results: list[bytes | str] = []
    current: list[tol.Dylib] = []
    is_over = threading.Event()

    def pickle_it() -> None:
        while not is_over.is_set():
            for dylib in list(current):
                try:
                    results.append(pickle.dumps(dylib))
                except TypeError as error:
                    results.append(str(error))

    threads = [threading.Thread(target=pickle_it) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(200):
        with tol.Session(picklable=number % 2 == 0) as session:
            base = session.load(add_object, name="base")
            current[:] = [session.create_dylib("d", link_order=[base]), base]
            if number % 3 == 0:
                base.close()
    is_over.set()
    for thread in threads:
        thread.join()
    refusals = {result for result in results if isinstance(result, str)}
    assert refusals <= {
        f"dylib '{name}' cannot be pickled: it is closed: pickle it, and its functions, before that"
        for name in ("d", "base")
    }
    assert all(pickle.loads(data) for data in set(results) - refusals if isinstance(data, bytes))


def test_it_is_logged(send: Send, caplog: pytest.LogCaptureFixture) -> None:
    data = send(name="d")
    with caplog.at_level(logging.DEBUG, "tvm_ffi_object_loader"):
        pickle.loads(data)
    assert any("dylib 'd' of session 'received'" in record.message for record in caplog.records)


def test_nothing_grows(send: Send, compile: Compiler, tmp_path: Path) -> None:
    """What is noted of dylibs that are gone goes as well."""
    data = send()
    with tol.Session(picklable=True) as session:
        for _ in range(400):
            path = compile(TRACED, "-O1", "-fPIC", "-DEVENT=1")
            pickle.dumps(session.load(path)["event"])
        gc.collect()
    assert len(_received._known) < 200
    assert len(_received._by_digest) < 200
    assert pickle.loads(data)() == 1
