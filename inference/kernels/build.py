"""Compile the kernels: every form of the compiler's architecture into one library, for `library.py` to choose from.

Run by `hatch_build.py` where the package is built and by ``make kernels`` in a checkout, never where it only runs. It
needs a C compiler and nothing beyond Python's own library: at that point nothing is installed yet.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
#: In a checkout and in an installed package.
LIBRARY = HERE / "kernels.so"
COMPILERS = ("cc", "gcc", "clang")
#: -ffp-contract=off: a compiler's choice of what to fuse would change bits; the kernels fuse explicitly.
FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-ffp-contract=off", "-fno-math-errno")
MACOS_FLAGS = ("-mmacosx-version-min=11.0",)


@dataclass(frozen=True)
class Form:
    """A form of the kernels: its name, the header that makes it (see `simd.h`), and the compiler's flags for it."""

    name: str
    header: str
    flags: tuple[str, ...] = ()

    @property
    def definitions(self) -> tuple[str, ...]:
        """What `form.c` expects to be defined."""
        return (f"-DFORM={self.name}", f'-DFORM_HEADER="{self.header}"')


_AVX2 = ("-mavx2", "-mfma")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw")
PORTABLE = Form("portable", "simd_portable.h")
#: By architecture, the fastest first: where several can run, the first is chosen.
FORMS = {
    "x86_64": (
        Form("avx512_vnni", "simd_avx512.h", (*_AVX512, "-mavx512vnni")),
        Form("avx512", "simd_avx512.h", _AVX512),
        Form("avx_vnni", "simd_avx2.h", (*_AVX2, "-mavxvnni")),
        Form("avx2", "simd_avx2.h", _AVX2),
        PORTABLE,
    ),
    "aarch64": (
        Form("neon_i8mm", "simd_neon.h", ("-march=armv8.2-a+dotprod+i8mm",)),
        Form("neon_dotprod", "simd_neon.h", ("-march=armv8.2-a+dotprod",)),
        PORTABLE,
    ),
}


class CompilerMissing(Exception):
    """There is no working C compiler; the message is one line that says what was tried."""


@dataclass(frozen=True)
class Compiler:
    """A C compiler and what it compiles for."""

    command: tuple[str, ...]
    architecture: str
    macos: bool

    @classmethod
    def find(cls) -> Compiler:
        """Return the compiler that ``CC`` names, or else the first that is on the path.

        Raises
        ------
        CompilerMissing
            None is there, or it cannot compile against the C library.
        """
        named = os.environ.get("CC", "")
        found = next((name for name in COMPILERS if shutil.which(name)), None)
        command = tuple(shlex.split(named)) or ((found,) if found else ())
        if not command:
            raise CompilerMissing(f"no C compiler: none of {', '.join(COMPILERS)} is on the path")
        try:
            done = subprocess.run([*command, "-dumpmachine"], capture_output=True, text=True, check=False)
        except OSError as error:
            raise CompilerMissing(f"no C compiler: {shlex.join(command)}: {error.strerror}") from error
        target = done.stdout.strip()
        architecture = target.partition("-")[0]
        compiler = cls(command, {"arm64": "aarch64"}.get(architecture, architecture), "darwin" in target)
        if not compiler.accepts("-shared", program="#include <math.h>\n#include <string.h>\n"):
            raise CompilerMissing(f"no C compiler: {shlex.join(command)} does not work (are libc's headers there?)")
        return compiler

    def accepts(self, *flags: str, program: str = "") -> bool:
        """Whether it compiles a small program with these flags."""
        command = [*self.command, *FLAGS, *flags, "-x", "c", "-", "-o", os.devnull]
        return subprocess.run(command, input=program, capture_output=True, text=True, check=False).returncode == 0

    def run(self, *arguments: str) -> None:
        """Compile, in the directory of the sources, so that no path enters the result.

        Raises
        ------
        subprocess.CalledProcessError
            The sources do not compile; the compiler has said why on the standard error.
        """
        subprocess.run([*self.command, *FLAGS, *(MACOS_FLAGS if self.macos else ()), *arguments], check=True, cwd=HERE)


def sources() -> list[Path]:
    """Return the files that the library is made of; none in an installed package."""
    return sorted([*HERE.glob("*.c"), *HERE.glob("*.h")])


def sources_hash() -> str:
    """Return a hash over the sources and this file."""
    digest = hashlib.sha256()
    for file in (*sources(), Path(__file__)):
        digest.update(f"{file.name}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:32]


def is_current(library: Path = LIBRARY) -> bool:
    """Whether a library was compiled from the sources as they are now."""
    return library.is_file() and sources_hash().encode() in library.read_bytes()


def compile_library(target: Path = LIBRARY) -> str:
    """Compile the library; return one line that says which forms it holds, and which had to be left out.

    Raises
    ------
    CompilerMissing
        There is no working C compiler.
    subprocess.CalledProcessError
        The sources do not compile.
    """
    compiler = Compiler.find()
    wanted = FORMS.get(compiler.architecture, (PORTABLE,))
    forms = [form for form in wanted if compiler.accepts("-c", *form.flags)]
    names = " ".join(f"FORM({form.name})" for form in forms)
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(os.cpu_count()) as threads:
        objects = [f"{directory}/{form.name}.o" for form in forms]
        # Not waited for in order: the first error ends the build.
        for _ in threads.map(
            lambda form, to: compiler.run(*form.flags, *form.definitions, "-c", "form.c", "-o", to), forms, objects
        ):
            pass
        partial = target.with_suffix(f".{os.getpid()}.partial")
        common = ("library.c", "wordpiece.c", f"-DFORMS={names}", f'-DSOURCES="{sources_hash()}"')
        try:
            compiler.run("-shared", *common, *objects, "-o", str(partial), "-lm")
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    left_out = [form.name for form in wanted if form not in forms]
    said = f"kernels compiled by {shlex.join(compiler.command)}: {', '.join(form.name for form in forms)}"
    return said + (f"; it does not know the instructions of {', '.join(left_out)}" if left_out else "")


def wheel_tag(library: Path) -> str:
    """Return the tag of a wheel that holds this library: any Python 3, and the oldest system that can load it."""
    system, machine = os.uname().sysname, os.uname().machine
    if system == "Darwin":
        return f"py3-none-macosx_11_0_{machine}"
    glibc = [int(minor) for minor in re.findall(rb"GLIBC_2\.(\d+)", library.read_bytes())]
    # Without a version of glibc in it, it was linked against another C library, whose wheels have no such rule.
    return f"py3-none-manylinux_2_{max(17, *glibc)}_{machine}" if glibc else f"py3-none-linux_{machine}"


def main(arguments: Sequence[str]) -> int:
    """Compile the library of this checkout unless it is current; without a compiler, delete an older one."""
    if is_current() and "--force" not in arguments:
        return 0
    try:
        print(compile_library(), file=sys.stderr)
    except CompilerMissing as error:
        LIBRARY.unlink(missing_ok=True)
        print(f"{error}; the engine will compute with torch alone, which is slower", file=sys.stderr)
    except subprocess.CalledProcessError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
