"""Compile the C sources in this directory with the machine's own compiler, and load them.

The library is kept in the user's cache directory, named by a hash over the sources, the compiler and the processor. On
a machine without a compiler `library` returns None, and the engine computes with torch alone.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from earlybell.inference.kernels import autotune, structs

_HERE = Path(__file__).parent
SOURCES = tuple(
    _HERE / name for name in ("layer.c", "attention.c", "exit_heads.c", "forward.c", "wordpiece.c", "library.c")
)
HEADERS = tuple(
    _HERE / name
    for name in ("int8.h", "wordpiece.h", "simd.h", "simd_avx512.h", "simd_avx2.h", "simd_neon.h", "simd_portable.h")
)
#: -ffp-contract=off: a compiler's choice of what to fuse would change bits; the kernels fuse explicitly.
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-shared", "-fPIC", "-ffp-contract=off", "-fno-math-errno")
COMPILERS = ("cc", "gcc", "clang")
BUILD_TIMEOUT_S = 120


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the compiled kernels, compiling them if need be; None without a compiler or a writable cache.

    Raises
    ------
    RuntimeError
        The library does not match `structs`.
    """
    file = _built()
    if file is None:
        return None
    try:
        loaded = ctypes.CDLL(str(file))
    except OSError:
        return None
    structs.check(loaded)
    return loaded


def form(loaded: ctypes.CDLL) -> str:
    """Return the name of the SIMD form that the kernels were compiled in (see `simd.h`)."""
    name: bytes = loaded.earlybell_form()
    return name.decode()


def _built() -> Path | None:
    compiler = os.environ.get("CC") or next((path for name in COMPILERS if (path := shutil.which(name))), None)
    if compiler is None:
        return None
    sources = [source.read_text(encoding="utf-8") for source in (*SOURCES, *HEADERS)]
    inputs = "\n".join([*sources, compiler, *FLAGS, autotune.processor()])
    file = autotune.cache() / f"kernels-{hashlib.sha256(inputs.encode()).hexdigest()[:16]}.so"
    try:
        if not file.is_file():
            with autotune.locked(file.with_suffix(".lock")):
                if not file.is_file():
                    _compile(compiler, file)
    except (OSError, subprocess.SubprocessError):
        return None
    return file


def _compile(compiler: str, file: Path) -> None:
    partial = file.with_suffix(f".{os.getpid()}.partial")
    try:
        subprocess.run(
            [compiler, *FLAGS, *map(str, SOURCES), "-o", str(partial), "-lm"],
            check=True,
            capture_output=True,
            timeout=BUILD_TIMEOUT_S,
        )
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
