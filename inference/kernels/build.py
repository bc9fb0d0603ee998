"""The compiled part: builds the C sources beside it by the machine's own C compiler, and loads them.

The library lies in the user's cache directory, named by a hash over the source, the compiler and the processor. A
machine without a compiler does without it (`library` returns None) and the engine computes with torch alone.
It knows compilers and files; the structures that cross the border are declared in `quantised`,
`packed_exits` and `word_pieces`.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from earlybell.inference.kernels import autotune

_HERE = Path(__file__).parent
SOURCES = tuple(_HERE / name for name in ("layer.c", "attention.c", "exit_heads.c", "forward.c", "wordpiece.c"))
HEADERS = (_HERE / "int8.h", _HERE / "simd.h")
#: -ffp-contract=fast is GCC's default and not Clang's; named, so that both multiply and add in one step.
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-shared", "-fPIC", "-ffp-contract=fast", "-fno-math-errno")
COMPILERS = ("cc", "gcc", "clang")
LONGEST_BUILD_S = 120


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, built now if need be; None where there is no compiler or nowhere to keep them."""
    compiler = os.environ.get("CC") or next((found for name in COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        return None
    sources = [source.read_text(encoding="utf-8") for source in (*SOURCES, *HEADERS)]
    hangs_on = "\n".join([*sources, compiler, *FLAGS, autotune.processor()])
    file = autotune.cache() / f"kernels-{hashlib.sha256(hangs_on.encode()).hexdigest()[:16]}.so"
    try:
        if not file.is_file():
            with autotune.locked(file.with_suffix(".lock")):
                if not file.is_file():
                    _compile(compiler, file)
        return ctypes.CDLL(str(file))
    except (OSError, subprocess.SubprocessError):
        return None


def _compile(compiler: str, file: Path) -> None:
    partial = file.with_suffix(f".{os.getpid()}.partial")
    try:
        subprocess.run(
            [compiler, *FLAGS, *map(str, SOURCES), "-o", str(partial), "-lm"],
            check=True,
            capture_output=True,
            timeout=LONGEST_BUILD_S,
        )
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
