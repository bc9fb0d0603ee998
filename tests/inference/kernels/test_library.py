"""The compiled library: what it holds, which form is chosen, and what is said when it cannot be loaded."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from earlybell.inference.kernels import build, library, structs
from earlybell.inference.kernels.library import KernelsError

pytestmark = pytest.mark.skipif(library.missing() is not None, reason="no kernels here")


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Forget what was loaded, before the test and after it."""
    monkeypatch.delenv(library.VARIABLE, raising=False)
    library.load.cache_clear()
    library._library.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    library.load.cache_clear()
    library._library.cache_clear()


def test_the_fastest_form_that_runs_here_is_chosen(fresh: pytest.MonkeyPatch) -> None:
    available = library.forms()
    assert available[-1] == "portable"
    wanted = [form.name for form in build.FORMS.get(build.Compiler.find().architecture, (build.PORTABLE,))]
    assert [name for name in wanted if name in available] == list(available)
    loaded = library.load()
    assert loaded is not None
    assert loaded.form == available[0] == library.chosen_form()


@pytest.mark.skipif(sys.platform != "linux", reason="compared with /proc/cpuinfo, which Linux alone has")
def test_the_forms_that_run_are_those_of_the_processors_flags() -> None:
    words = set(Path("/proc/cpuinfo").read_text().split())
    needs = {
        "avx512_vnni": {"avx512bw", "avx512_vnni"}, "avx512": {"avx512bw"}, "avx_vnni": {"avx_vnni"},
        "avx2": {"avx2", "fma"}, "neon_i8mm": {"asimddp", "i8mm"}, "neon_dotprod": {"asimddp"}, "portable": set(),
    }  # fmt: skip
    assert {form for form, flags in needs.items() if flags <= words} == set(library.forms())


@pytest.mark.parametrize("form", library.forms())
def test_a_form_can_be_named(form: str, fresh: pytest.MonkeyPatch) -> None:
    fresh.setenv(library.VARIABLE, form)
    loaded = library.load()
    assert loaded is not None and loaded.form == form


@pytest.mark.parametrize("form", ["avx1024", "AVX2 ", "sse2"])
def test_a_form_that_cannot_run_is_one_line_that_lists_those_that_can(form: str, fresh: pytest.MonkeyPatch) -> None:
    fresh.setenv(library.VARIABLE, form)
    with pytest.raises(KernelsError) as error:
        library.load()
    assert "\n" not in str(error.value)
    assert repr(form) in str(error.value)
    assert all(name in str(error.value) for name in library.forms())


def test_without_a_library_there_is_one_line_that_says_what_it_costs(tmp_path: Path, fresh: pytest.MonkeyPatch) -> None:
    fresh.setattr(build, "LIBRARY", tmp_path / "kernels.so")
    assert library.load() is None
    assert library.forms() == () and library.chosen_form() is None
    assert "make kernels" in str(library.missing()) and library.COST in str(library.missing())
    fresh.setattr(build, "HERE", tmp_path)  # an installed package has no sources
    assert "install a C compiler" in str(library.missing())


def test_a_file_that_is_no_library_is_named(tmp_path: Path, fresh: pytest.MonkeyPatch) -> None:
    fresh.setattr(build, "HERE", tmp_path)
    fresh.setattr(build, "LIBRARY", tmp_path / "kernels.so")
    (tmp_path / "kernels.so").write_text("not a library")
    assert library.load() is None
    assert "cannot be loaded" in str(library.missing()) and "kernels.so" in str(library.missing())


def test_a_library_older_than_its_sources_is_refused(tmp_path: Path, fresh: pytest.MonkeyPatch) -> None:
    for source in build.sources():
        shutil.copy(source, tmp_path)
    fresh.setattr(build, "HERE", tmp_path)
    assert build.is_current()
    with (tmp_path / "layer.c").open("a") as file:
        file.write("/* A change. */\n")
    assert not build.is_current()
    with pytest.raises(KernelsError, match="make kernels"):
        library.load()


@pytest.mark.parametrize("constants", [{"PANEL": 32}, {"TERMS": 8}])
def test_kernels_with_other_constants_are_refused(constants: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = ctypes.CDLL(str(build.LIBRARY))
    structs.check(loaded)
    for name, value in constants.items():
        monkeypatch.setitem(structs._CONSTANTS, name, value)
        with pytest.raises(RuntimeError, match=name):
            structs.check(loaded)


def test_a_structure_of_another_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Norm(structs.Norm):
        _fields_: ClassVar = [("added", ctypes.c_int64)]

    monkeypatch.setattr(structs, "_STRUCTURES", (structs.Linear, Norm, *structs._STRUCTURES[2:]))
    with pytest.raises(RuntimeError, match="Norm is"):
        structs.check(ctypes.CDLL(str(build.LIBRARY)))


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_no_compiler_and_a_broken_one_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(build.CompilerMissing, match=r"none of cc, gcc, clang is on the path$"):
        build.Compiler.find()
    monkeypatch.setenv("CC", str(tmp_path / "none"))
    with pytest.raises(build.CompilerMissing, match=r"none: No such file or directory$"):
        build.Compiler.find()
    monkeypatch.setenv("CC", script(tmp_path / "broken", "exit 1"))
    with pytest.raises(build.CompilerMissing, match=r"broken does not work"):
        build.Compiler.find()


def test_a_form_that_the_compiler_does_not_know_is_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a compiler of 2018, as far as its options go; only the smallest form is really compiled."""
    compiler = build.Compiler.find()
    old = script(
        tmp_path / "old", f'case "$*" in *avxvnni*|*avx512*) exit 1;; esac\nexec {" ".join(compiler.command)} "$@" -O0'
    )
    monkeypatch.setenv("CC", old)
    forms = (build.Form("unknown", "simd_avx2.h", ("-mavx2", "-mfma", "-mavxvnni")), build.PORTABLE)
    monkeypatch.setattr(build, "FORMS", {compiler.architecture: forms})
    said = build.compile_library(tmp_path / "kernels.so")
    assert said.endswith("portable; it does not know the instructions of unknown")
    assert "\n" not in said


def test_sources_that_do_not_compile_leave_the_library_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for source in build.sources():
        shutil.copy(source, tmp_path)
    (tmp_path / "forward.c").write_text("#error on purpose\n")
    monkeypatch.setattr(build, "HERE", tmp_path)
    monkeypatch.setattr(build, "LIBRARY", tmp_path / "kernels.so")
    monkeypatch.setattr(build, "FORMS", {})
    (tmp_path / "kernels.so").write_text("older")
    assert build.main([]) == 1
    assert "on purpose" in capfd.readouterr().err
    assert (tmp_path / "kernels.so").read_text() == "older"
    assert not list(tmp_path.glob("*.partial"))


def test_the_build_needs_nothing_beyond_pythons_library(tmp_path: Path) -> None:
    program = (
        "import sys; sys.path = [p for p in sys.path if 'site-packages' not in p]; import runpy; "
        f"runpy.run_path({str(build.__file__)!r})"
    )
    subprocess.run([sys.executable, "-I", "-S", "-c", program], check=True, cwd=tmp_path, env=os.environ)
