"""Every form of the kernels computes the same bits: on this processor, under emulation, by every compiler at hand.

`digest.c` runs a small made-up model through the whole forward pass, with and without pruning. Where a compiler or an
emulator is missing its forms are skipped (Debian: clang, libsimde-dev, gcc-aarch64-linux-gnu, qemu-user).
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from earlybell.inference.kernels import autotune, build

#: Of the answers to `digest.c`. Another one means other answers: then raise `predictions.INT8_ARITHMETIC`.
DIGEST = "9221b8b8a6ea0802"
HERE = Path(__file__).parent
KERNELS = [str(source) for source in build.SOURCES if source.stem in ("layer", "attention", "exit_heads", "forward")]
FLAGS = [flag for flag in build.FLAGS if flag not in ("-O3", "-march=native", "-shared", "-fPIC")]
X86 = platform.machine() in ("x86_64", "AMD64")
AVX2 = "avx2" in autotune.processor().split()
SIMDE = "-I" + str(HERE / "simde")


def answer(tmp_path: Path, compiler: str, *flags: str, emulator: tuple[str, ...] = ()) -> tuple[str, str]:
    """Compile and run `digest.c`; return the form's name and the digest."""
    program = tmp_path / "digest"
    include = f"-I{build.SOURCES[0].parent}"
    command = [compiler, *FLAGS, include, *flags, *KERNELS, str(HERE / "digest.c"), "-o", str(program), "-lm"]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}  # the program frees nothing
    ran = subprocess.run(
        [*emulator, str(program)], check=True, capture_output=True, text=True, timeout=300, env=environment
    )
    form, digest = ran.stdout.split()
    return form, digest


def needs(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"no {program} here")


@pytest.mark.parametrize("level", ["-O1", "-O3"])
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_the_portable_form(tmp_path: Path, compiler: str, level: str) -> None:
    needs(compiler)
    assert answer(tmp_path, compiler, level, '-DFORM_HEADER="simd_portable.h"') == ("portable", DIGEST)


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_the_form_of_this_processor(tmp_path: Path, compiler: str) -> None:
    needs(compiler)
    library = build.library()
    assert library is not None
    assert answer(tmp_path, compiler, "-O3", "-march=native") == (build.form(library), DIGEST)


@pytest.mark.skipif(not AVX2, reason="this processor has no AVX2")
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_avx2(tmp_path: Path, compiler: str) -> None:
    needs(compiler)
    assert answer(tmp_path, compiler, "-O3", "-march=haswell") == ("avx2", DIGEST)


@pytest.mark.skipif(not AVX2, reason="the emulation needs AVX2")
@pytest.mark.skipif(not Path("/usr/include/simde/x86/avx512.h").is_file(), reason="no SIMDe here (libsimde-dev)")
@pytest.mark.parametrize(("form", "flags"), [("avx512", []), ("avx512_vnni", ["-DEMULATE_VNNI"])])
def test_avx512_under_emulation(tmp_path: Path, form: str, flags: list[str]) -> None:
    needs("gcc")
    emulated = ["-O1", "-march=haswell", SIMDE, '-DFORM_HEADER="simd_avx512.h"', *flags]
    assert answer(tmp_path, "gcc", *emulated) == (form, DIGEST)


@pytest.mark.skipif(not AVX2, reason="the emulation needs AVX2")
def test_avx_vnni_under_emulation(tmp_path: Path) -> None:
    needs("gcc")
    emulated = ["-O1", "-march=haswell", "-DEMULATE_VNNI"]
    assert answer(tmp_path, "gcc", *emulated) == ("avx_vnni", DIGEST)


def test_neon_under_emulation(tmp_path: Path) -> None:
    needs("aarch64-linux-gnu-gcc", "qemu-aarch64")
    target = ["-O3", "-static", "-march=armv8.2-a+dotprod"]
    found = answer(tmp_path, "aarch64-linux-gnu-gcc", *target, emulator=("qemu-aarch64", "-cpu", "max"))
    assert found == ("neon_dotprod", DIGEST)


@pytest.mark.skipif(not X86, reason="the sanitizers are tried on x86-64")
def test_nothing_is_out_of_bounds_or_undefined(tmp_path: Path) -> None:
    needs("gcc")
    sanitized = ["-O1", "-march=native", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    assert answer(tmp_path, "gcc", *sanitized)[1] == DIGEST
