# SPDX-License-Identifier: Apache-2.0
"""Thread-local variables of given libraries, used by code in the models of executables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from compilation import Compiler, Toolchain
from exec_models import CAUSE, MODELS, Run, every_toolchain, right, says_the_cause
from exec_models import room as room
from exec_models import run as run

pytestmark = pytest.mark.matrix

LIBRARY = """
_Thread_local char before[24] = "before";
_Thread_local int counter = 7;
_Thread_local long zero;
_Thread_local _Alignas(64) long aligned[3] = {1, 2, 3};
int* where(void) { return &counter; }
"""
USES_LIBRARY = """
#include "safe_call.h"
extern _Thread_local int counter;
extern _Thread_local long zero;
extern _Thread_local _Alignas(64) long aligned[3];
static _Thread_local int own = 100;
int* where(void);
EXPORT(run) {
  counter += 1;
  zero += INT(0);
  aligned[2] *= 2;
  own += 1;
  RETURN(counter + zero * 100 + aligned[2] * 1000 + own * 100000 +
         (where() == &counter) * 100000000 + ((uintptr_t)aligned % 64) * 1000000000);
}
"""


@pytest.fixture(scope="module")
def libraries(compile: Compiler) -> dict[str, Path]:
    """Return the library, compiled for the models in which it may use its own variables."""
    models = ("general dynamic", "descriptors", "initial exec")
    return {model: compile.link(compile(LIBRARY, "-O2", *MODELS[model])) for model in models}


@pytest.fixture(scope="module")
def of_the_library(compile: Compiler, libraries: dict[str, Path], run: Run) -> list[object]:
    """Return what a linked library that uses it gives."""
    library = libraries["general dynamic"]
    return right(run("dlopen", compile.link(compile(USES_LIBRARY), library)))


@pytest.mark.parametrize("kept", ["general dynamic", "initial exec"])
@pytest.mark.parametrize("how", ["beside", "link order", "in the process"])
@pytest.mark.parametrize("model", ["initial exec", "PIE", "fixed", "general dynamic"])
@every_toolchain
def test_variables_of_a_library(
    compile: Compiler,
    run: Run,
    libraries: dict[str, Path],
    of_the_library: list[object],
    toolchain: Toolchain,
    model: str,
    how: str,
    kept: str,
) -> None:
    library = libraries[kept]
    path = compile(USES_LIBRARY, "-O2", *MODELS[model], toolchain=toolchain)
    if how == "beside":
        answers = run("loader", [path, library])
    elif how == "link order":
        answers = run("loader", [path], link_order=(library,))
    else:
        answers = run("loader", [path], in_the_process=(library,))
    assert right(answers) == of_the_library


@pytest.mark.parametrize("how", ["beside", "link order"])
@pytest.mark.parametrize(
    ("model", "kept"),
    [("PIE, large", "descriptors"), ("PIE, no PLT", "descriptors"), ("descriptors", "descriptors")],
)
def test_variables_of_a_library_in_other_models(
    compile: Compiler,
    run: Run,
    libraries: dict[str, Path],
    of_the_library: list[object],
    model: str,
    kept: str,
    how: str,
) -> None:
    path, library = compile(USES_LIBRARY, "-O2", *MODELS[model]), libraries[kept]
    if how == "beside":
        answers = run("loader", [path, library])
    else:
        answers = run("loader", [path], link_order=(library,))
    assert right(answers) == of_the_library


@pytest.mark.parametrize("model", ["initial exec", "PIE"])
def test_variables_of_several_libraries(compile: Compiler, run: Run, model: str) -> None:
    libraries = [
        compile.link(
            compile(
                f"_Thread_local long of_{n} = {n};\nlong* where_{n}(void) {{ return &of_{n}; }}\n"
            )
        )
        for n in range(1, 4)
    ]
    source = '#include "safe_call.h"\n' + "".join(
        f"extern _Thread_local long of_{n};\nlong* where_{n}(void);\n" for n in range(1, 4)
    )
    source += "EXPORT(run) { RETURN(++of_1 + ++of_2 * 100 + ++of_3 * 10000 + (*where_2())++); }\n"
    path = compile(source, "-O2", *MODELS[model])
    plain = compile.link(compile(source), *libraries)
    expected = right(run("dlopen", plain))
    assert right(run("loader", [path, *libraries])) == expected
    assert right(run("loader", [path], link_order=tuple(libraries))) == expected
    assert right(run("loader", [path, libraries[0]], link_order=tuple(libraries[1:]))) == expected


OBJECTS = """
struct Counted {
  long value;
  Counted() : value(40) {}
  ~Counted() { value = 0; }
};
extern thread_local Counted counted;
"""


@pytest.mark.parametrize("model", ["initial exec", "PIE", "general dynamic"])
@every_toolchain
def test_an_object_of_a_library(
    compile: Compiler, run: Run, toolchain: Toolchain, model: str
) -> None:
    library = compile.link(compile.cxx(OBJECTS + "thread_local Counted counted;\n"))
    source = '#include "safe_call.h"\n' + OBJECTS
    source += "EXPORT(run) { counted.value += INT(0); RETURN(counted.value); }\n"
    path = compile.cxx(source, "-O2", *MODELS[model], toolchain=toolchain)
    plain = compile.link(compile.cxx(source), library)
    expected = right(run("dlopen", plain))
    assert right(run("loader", [path, library])) == expected
    assert right(run("loader", [path], link_order=(library,))) == expected


@pytest.mark.parametrize("model", ["initial exec", "PIE"])
def test_a_library_with_more_than_there_is_room_for(
    compile: Compiler, run: Run, model: str
) -> None:
    library = compile.link(compile(f"_Thread_local char unused[1 << 20];\n{LIBRARY}"))
    path = compile(USES_LIBRARY, "-O2", *MODELS[model])
    plain = compile.link(compile(USES_LIBRARY, "-O2", "-fPIC", "-ftls-model=initial-exec"), library)
    assert "static TLS" in str(run("dlopen", plain)[0]["error"])
    for answer in (
        run("loader", [path, library])[0],
        run("loader", [path], link_order=(library,))[0],
    ):
        says_the_cause(answer, path)
    # In the dynamic model it is a library as any other.
    dynamic = compile(USES_LIBRARY, "-O2", "-fPIC")
    linked = compile.link(dynamic, library)
    assert right(run("loader", [dynamic, library])) == right(run("dlopen", linked))


@pytest.mark.parametrize("used", ["after the import"])
@pytest.mark.parametrize("model", ["initial exec", "PIE", "fixed"])
@pytest.mark.parametrize("how", ["beside", "link order"])
def test_no_room_for_a_librarys_variables(
    compile: Compiler,
    run: Run,
    libraries: dict[str, Path],
    of_the_library: list[object],
    how: str,
    model: str,
    used: str,
) -> None:
    library = libraries["general dynamic"]
    path = compile(USES_LIBRARY, "-O2", *MODELS[model], name="uses")
    if how == "beside":
        (answer,) = run("loader", [path, library], used=used)
    else:
        (answer,) = run("loader", [path], link_order=(library,), used=used)
    if "results" in answer:
        assert [answer["results"]] == of_the_library
    else:
        says_the_cause(answer, path)


def test_no_room_for_one_of_many_objects(compile: Compiler, run: Run, tmp_path: Path) -> None:
    library = compile.link(compile(LIBRARY, "-O2", "-fPIC"))
    path = compile(USES_LIBRARY, "-O2", "-fPIE", name="uses")
    objects = []
    for number in range(60):
        objects.append(tmp_path / f"innocent_{number:02}.o")
        content = compile("int innocent_QX;\n").read_bytes()
        objects[-1].write_bytes(content.replace(b"QX", b"%02d" % number))
    (answer,) = run("loader", [*objects, path, library], used="after the import")
    if "error" in answer:
        said = str(answer["error"])
        assert answer["type"] == "LinkError"
        assert CAUSE.search(said[:600])
        assert len(said) < 3000
        assert len(re.findall(r"innocent_\d\d\.o", said)) <= 12
