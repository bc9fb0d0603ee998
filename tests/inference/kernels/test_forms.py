"""Every form of the kernels computes the same bits: on this processor, under emulation, by every compiler at hand.

`digest.c` runs a small made-up model through the whole forward pass, with and without pruning. Where a compiler or an
emulator is missing its forms are skipped (Debian: clang, libsimde-dev, gcc-aarch64-linux-gnu, qemu-user). Emulated
forms are compiled without optimisation, in a fraction of the time; ``make nightly`` optimises them, and runs every form
under the sanitizers.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from earlybell.inference.kernels import build, library
from earlybell.inference.kernels.build import FORMS, Form
from earlybell.inference.model import figures
from earlybell.inference.model.checkpoint import SHIPPED, verify
from earlybell.inference.predictions import INT8_ARITHMETIC
from tests.inference.kernels import shipped_answers

#: Of the answers to `digest.c`. Another one means other answers: then raise `predictions.INT8_ARITHMETIC`.
DIGEST = "2a0172818da13482"
HERE = Path(__file__).parent
SIMDE = Path("/usr/include/simde/x86/avx512.h")
X86 = "avx2" in library.forms()
AARCH64 = "aarch64-linux-gnu-gcc"
#: How to run what was compiled for aarch64 against that compiler's C library.
QEMU_AARCH64 = ("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu")
NEEDS_AVX2 = pytest.mark.skipif(not X86, reason="the emulation needs AVX2")
SANITIZED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
#: Stand-ins for instructions that this processor may lack, by form.
EMULATION = {
    "avx512_vnni": ("-mavx2", "-mfma", f"-I{HERE / 'simde'}", "-DEMULATE_VNNI"),
    "avx512": ("-mavx2", "-mfma", f"-I{HERE / 'simde'}"),
    "avx_vnni": ("-mavx2", "-mfma", "-DEMULATE_VNNI"),
    "avx2": ("-mavx2", "-mfma"),
    "portable": (),
}
nightly = pytest.mark.nightly


def compile_digest(program: Path, compiler: str, *arguments: str) -> Path:
    flags = [flag for flag in build.FLAGS if flag not in ("-O3", "-fPIC")]
    command = [compiler, *flags, f"-I{build.HERE}", str(HERE / "digest.c"), *arguments, "-o", str(program), "-lm"]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=500)
    return program


def digests(program: Path, *emulator: str) -> dict[str, str]:
    """Return the digest of each form that the program runs."""
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}  # the program frees nothing
    command = [*emulator, str(program)]
    ran = subprocess.run(command, check=True, capture_output=True, text=True, timeout=500, env=environment)
    return dict(line.split() for line in ran.stdout.splitlines())


def linked(tmp_path: Path, compiler: str = "cc", kernels: Path = build.LIBRARY) -> Path:
    """Compile `digest.c` against a library: it runs what the library would choose from."""
    return compile_digest(tmp_path / "digest", compiler, "-O1", str(kernels))


def alone(tmp_path: Path, compiler: str, form: Form, *flags: str) -> Path:
    """Compile `digest.c` with one form, which runs whatever the processor has."""
    only = f"-DONLY=earlybell_form_{form.name}"
    return compile_digest(tmp_path / "digest", compiler, *flags, *form.definitions, only, str(build.HERE / "form.c"))


def needs(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"no {program} here")


def needs_for(form: str) -> None:
    needs("gcc")
    if form.startswith("avx512") and not SIMDE.is_file():
        pytest.skip("no SIMDe here (libsimde-dev)")


def form_named(name: str) -> Form:
    return next(form for forms in FORMS.values() for form in forms if form.name == name)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`digest.c` against the library that is loaded in production."""
    needs("cc")
    return linked(tmp_path_factory.mktemp("shipped"))


def test_every_form_that_runs_here(shipped: Path) -> None:
    assert library.forms()
    assert digests(shipped) == dict.fromkeys(library.forms(), DIGEST)


@pytest.mark.parametrize("form", library.forms())
def test_the_shipped_model_gives_the_recorded_answers(form: str) -> None:
    """See `shipped_answers.py`; plain C would take long for all of them."""
    recorded = json.loads(shipped_answers.FILE.read_text())
    assert recorded["model"] == verify(SHIPPED)
    assert recorded["arithmetic"] == f"{INT8_ARITHMETIC}.figures{figures.RULES}"
    chunks = 1 if form == "portable" else max(map(len, recorded["answers"].values()))
    command = [sys.executable, "-m", "tests.inference.kernels.shipped_answers", str(chunks)]
    ran = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=500, env={**os.environ, "EARLYBELL_ISA": form}
    )
    assert json.loads(ran.stdout) == {dial: digests[:chunks] for dial, digests in recorded["answers"].items()}


@pytest.mark.skipif(not X86, reason="x86-64 only")
@pytest.mark.parametrize(("processor", "forms"), [("Haswell", ["avx2", "portable"]), ("Nehalem", ["portable"])])
def test_an_older_processor_runs_the_forms_that_it_can(shipped: Path, processor: str, forms: list[str]) -> None:
    needs("qemu-x86_64")
    assert digests(shipped, "qemu-x86_64", "-cpu", processor) == dict.fromkeys(forms, DIGEST)


@pytest.mark.parametrize(
    "compiler", [pytest.param("gcc", marks=nightly), "clang"]
)  # the shipped library is most often gcc's
def test_every_compiler_computes_the_same(compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs(compiler)
    monkeypatch.setenv("CC", compiler)
    architecture = build.Compiler.find().architecture
    runnable = tuple(form for form in FORMS[architecture] if form.name in library.forms())
    monkeypatch.setattr(build, "FORMS", {architecture: runnable})
    kernels = tmp_path / build.LIBRARY.name
    build.compile_library(kernels)
    assert digests(linked(tmp_path, kernels=kernels)) == dict.fromkeys(library.forms(), DIGEST)


@NEEDS_AVX2
@pytest.mark.parametrize("level", ["-O0", pytest.param("-O2", marks=nightly)])
@pytest.mark.parametrize("name", ["avx512_vnni", "avx512", "avx_vnni"])
def test_x86_forms_under_emulation(name: str, level: str, tmp_path: Path) -> None:
    needs_for(name)
    assert digests(alone(tmp_path, "gcc", form_named(name), level, *EMULATION[name])) == {name: DIGEST}


@pytest.fixture(scope="module")
def on_arm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`digest.c` and the library, compiled for aarch64."""
    needs(AARCH64, QEMU_AARCH64[0])
    directory = tmp_path_factory.mktemp("arm")
    kernels = directory / build.LIBRARY.name
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CC", AARCH64)
        patch.setattr(build, "FLAGS", ("-O0", *build.FLAGS[1:]))
        build.compile_library(kernels)
    return linked(directory, AARCH64, kernels)


@pytest.mark.parametrize(
    ("processor", "forms"), [("max", ["neon_i8mm", "neon_dotprod", "portable"]), ("cortex-a53", ["portable"])]
)
def test_arm_runs_the_forms_that_it_can(on_arm: Path, processor: str, forms: list[str]) -> None:
    assert digests(on_arm, *QEMU_AARCH64, "-cpu", processor) == dict.fromkeys(forms, DIGEST)


@nightly
@pytest.mark.parametrize("name", [form.name for form in FORMS["aarch64"]])
def test_arm_forms_optimised(name: str, tmp_path: Path) -> None:
    needs(AARCH64, QEMU_AARCH64[0])
    form = form_named(name)
    program = alone(tmp_path, AARCH64, form, "-O3", *(form.flags if name != "portable" else ()))
    assert digests(program, *QEMU_AARCH64, "-cpu", "max") == {name: DIGEST}


@NEEDS_AVX2
@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name == "avx2" else nightly) for name in EMULATION])
def test_nothing_is_out_of_bounds_or_undefined(name: str, tmp_path: Path) -> None:
    needs_for(name)
    level = "-O0" if name == "avx2" else "-O1"
    assert digests(alone(tmp_path, "gcc", form_named(name), level, *EMULATION[name], *SANITIZED)) == {name: DIGEST}
