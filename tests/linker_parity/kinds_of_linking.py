# SPDX-License-Identifier: Apache-2.0
"""Kinds that ask a linker for more than addresses: thread-locals, choices, archives, supplies."""

from __future__ import annotations

import subprocess
from pathlib import Path

from kind import Kind, Step
from processors import AARCH64, PROCESSOR, X86_64

THREAD_LOCAL = "thread-local variables: "
VARIABLES = """
    static int64_t helper(int64_t n) { return n + 1; }
    _Thread_local int64_t counter = 5;
    static _Thread_local int64_t zero;
    static _Thread_local int64_t (*pointer)(int64_t) = helper;
    EXPORT(run) {
      counter += INT(0);
      zero += 1;
      RETURN(pointer(counter) * 100 + zero);
    }
    """
OBJECTS = """
    struct Counted {
      int64_t value;
      explicit Counted(int64_t n) : value(n) {}
      ~Counted() { value = 0; }
    };
    thread_local Counted outside(3);
    EXPORT(run) {
      static thread_local Counted inside(INT(0) + 40);
      RETURN(inside.value++ * 10 + outside.value++);
    }
    """


def archived(*options: str) -> Step:
    """Give a step that puts all objects but the first into an archive."""

    def step(objects: list[Path], folder: Path) -> list[Path]:
        archive = folder / "rest.a"
        archive.unlink(missing_ok=True)
        subprocess.run(["ar", *options, archive, *objects[1:]], check=True, stderr=subprocess.PIPE)
        return [objects[0], archive]

    return step


def in_a_library(objects: list[Path], folder: Path) -> list[Path]:
    """Link all objects but the first to a shared library."""
    library = folder / "rest.so"
    subprocess.run(["gcc", "-shared", *objects[1:], "-o", library], check=True)
    return [objects[0], library]


PARTS = (
    "int64_t part(int64_t n);\nEXPORT(run) { RETURN(part(INT(0)) + 1); }\n",
    "int64_t other(int64_t n);\nint64_t part(int64_t n) { return other(n) * 10; }\n",
    "int64_t data = 7;\nint64_t other(int64_t n) { return n + data; }\n",
    "int64_t missing(void);\nint64_t unused(void) { return missing(); }\n",
)

# Each makes addresses with other instructions.
TRADITIONAL = AARCH64.through_function
AARCH64_MODELS = [
    ("descriptors", ("-fPIC",)),
    ("descriptors", ("-fPIC", "-mcmodel=tiny")),
    ("general dynamic", ("-fPIC", "-mcmodel=tiny", TRADITIONAL)),
    ("local dynamic", ("-fPIC", "-mcmodel=tiny", TRADITIONAL, "-ftls-model=local-dynamic")),
    ("local dynamic", ("-fPIC", TRADITIONAL, "-ftls-model=local-dynamic")),
    ("initial exec", ("-fPIC", "-mcmodel=tiny", "-ftls-model=initial-exec")),
    ("local exec (`-fPIE`)", ("-fPIE", "-mtls-size=12")),
    ("local exec (`-fPIE`)", ("-fPIE", "-mtls-size=32")),
    ("local exec (`-fPIE`)", ("-fPIE", "-mtls-size=48")),
]

KINDS = [
    Kind(THREAD_LOCAL + "general dynamic", (VARIABLES,), ("-fPIC", PROCESSOR.through_function)),
    Kind(
        THREAD_LOCAL + "general dynamic",
        (VARIABLES,),
        ("-fPIC", PROCESSOR.through_function, "-fno-plt"),
        "no PLT",
    ),
    Kind(THREAD_LOCAL + "descriptors", (VARIABLES,), ("-fPIC", PROCESSOR.descriptors)),
    *(
        Kind(
            THREAD_LOCAL + model,
            (VARIABLES,),
            flags,
            case=" ".join(flags),
            reference_flags=("-fPIC",),
            processors=(AARCH64,),
        )
        for model, flags in AARCH64_MODELS
    ),
    Kind(THREAD_LOCAL + "local dynamic", (VARIABLES,), ("-fPIC", "-ftls-model=local-dynamic")),
    Kind(THREAD_LOCAL + "initial exec", (VARIABLES,), ("-fPIC", "-ftls-model=initial-exec")),
    Kind(
        THREAD_LOCAL + "local exec (`-fPIE`)",
        (VARIABLES,),
        ("-fPIE",),
        reference_flags=("-fPIC",),
    ),
    Kind(THREAD_LOCAL + "C++, with destructors", (OBJECTS,), language="c++"),
    Kind(
        THREAD_LOCAL + "of another object",
        (
            "extern _Thread_local int64_t n;\nEXPORT(run) { RETURN(n += INT(0)); }\n",
            "_Thread_local int64_t before = 1;\n_Thread_local int64_t n = 40;\n",
        ),
    ),
    Kind(
        "IFUNC",
        (
            """
            static int64_t twice(int64_t n) { return 2 * n; }
            static int64_t (*choose(void))(int64_t) { return twice; }
            int64_t chosen(int64_t n) __attribute__((ifunc("choose")));
            static int64_t hidden(int64_t n) __attribute__((ifunc("choose")));
            int64_t (*pointer)(int64_t) = chosen;
            EXPORT(run) { RETURN(chosen(INT(0)) * 100 + hidden(INT(0)) + (pointer == chosen)); }
            """,
        ),
    ),
    Kind(
        "`__builtin_cpu_supports`",
        (
            """
            EXPORT(run) {
              __builtin_cpu_init();
              RETURN((__builtin_cpu_supports("sse2") != 0) + (__builtin_cpu_is("intel") != 0) * 2);
            }
            """,
        ),
        processors=(X86_64,),
    ),
    Kind(
        "`atexit`, `at_quick_exit`, `pthread_atfork`",
        (
            """
            extern int atexit(void (*)(void));
            extern int at_quick_exit(void (*)(void));
            extern int pthread_atfork(void (*)(void), void (*)(void), void (*)(void));
            static void nothing(void) {}
            EXPORT(run) {
              RETURN(INT(0) + atexit(nothing) + at_quick_exit(nothing) +
                     pthread_atfork(0, nothing, 0));
            }
            """,
        ),
    ),
    Kind(
        "`_Float16`, `__int128`, complex arithmetic",
        (
            """
            EXPORT(run) {
              volatile _Float16 half = (_Float16)INT(0);
              volatile double wide = (double)INT(0) + 0.25;
              volatile __int128 large = ((__int128)INT(0) + 5) << 70;
              volatile double _Complex z = (double)INT(0) + 2.0i;
              half = (_Float16)(half + wide);
              z = z * z / (z + 1.0);
              RETURN((int64_t)((double)half * 100) + (int64_t)(large / 12345) +
                     (int64_t)(__real__ z * 1000));
            }
            """,
        ),
    ),
    Kind("an archive (`.a`), members on demand", PARTS, step=archived("rcs"), case="ar rcs"),
    Kind("an archive (`.a`), members on demand", PARTS, step=archived("rcsT"), case="thin"),
    Kind("a shared library (`.so`) beside the object", PARTS[:3], step=in_a_library),
]
