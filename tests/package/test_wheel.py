"""The wheel as a stranger installs it: beside a package that owns the bare name `inference`, used from elsewhere.

Everything is built and installed without a network: the new environment reads the dependencies of the environment that
runs the tests, but not its editable install of this project.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="no build backend: hatchling is not installed")

ROOT = Path(__file__).parents[2]
KERNELS = "earlybell/inference/kernels/kernels.so"
DIRECTORIES = ("deploy", "inference", "storage", "streams")
#: The package's own files; the rest of it is links to the directories.
TOP_LEVEL = {f"earlybell/{path.name}" for path in (ROOT / "earlybell").iterdir() if path.suffix in (".py", ".typed")}
#: Of these each wheel must hold at least one; a build that loses a kind of file still installs.
NEEDED_AT_RUN_TIME = [
    "earlybell/py.typed",
    "earlybell/deploy/local/*",
    "earlybell/inference/checkpoints/elbert-small/int8.safetensors",
    "earlybell/inference/checkpoints/elbert-small/tokenizer.json",
    "earlybell/inference/kernels/kernels.so",
    "earlybell/storage/migrations/versions/*.py",
    "earlybell/streams/demo/sample/feed.jsonl",
]
#: A stand-in for the package of that name on PyPI, which installs its modules at the top of site-packages.
OTHER_PACKAGE = {
    "pyproject.toml": """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "inference"
version = "9.0"
""",
    "inference/__init__.py": "OWNER = 'the other package'\n",
    "inference/engine.py": "OWNER = 'the other package'\n",
}
USER_PROGRAM = """\
import earlybell
predictions: earlybell.Predictions = earlybell.open_engine().score(["Acme raises its outlook"])
reveal_type(earlybell.decode_news(b"{}").symbols)
"""
WRONG_PROGRAM = """\
import earlybell
earlybell.decode_news("not bytes")
earlybell.nonsense()
"""
#: The subject is this wheel's types; following torch and SQLAlchemy as well would take a minute.
MYPY_SETTINGS = """\
[mypy]
strict = true
[mypy-torch.*,transformers.*,sqlalchemy.*,tokenizers.*,structlog.*]
follow_imports = skip
"""


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sdist, as an installer builds it."""
    directory = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(directory, filter="data")
    (source,) = directory.iterdir()
    return build("wheel", source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel and the other package in it."""
    directory = tmp_path_factory.mktemp("environment")
    other = tmp_path_factory.mktemp("other")
    for name, text in OTHER_PACKAGE.items():
        (other / name).parent.mkdir(exist_ok=True)
        (other / name).write_text(text)
    venv.create(directory, with_pip=True)
    install = [str(directory / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    run([*install, build("wheel", other, other / "dist"), wheel], directory)
    # A path added by a .pth file is searched last, and the .pth files in it, the editable install's among them, are
    # not read. Added after the installation, so that pip sees no earlier earlybell that it might uninstall.
    (site_packages,) = directory.glob("lib/python*/site-packages")
    dependencies = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site_packages / "dependencies.pth").write_text("".join(f"{path}\n" for path in sorted(dependencies)))
    return directory


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """An empty directory to run from."""
    directory = tmp_path / "empty"
    directory.mkdir()
    return directory


def build(target: str, source: Path, directory: Path) -> Path:
    run([sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", directory], source)
    (artifact,) = directory.iterdir()
    return artifact


def run(
    command: Sequence[str | Path],
    directory: Path,
    *,
    text: str = "",
    fails: bool = False,
    variables: Mapping[str, str] | None = None,
) -> str:
    """Run a command as a user of the new environment would, and return what it printed."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("EARLYBELL_", "PYTHON"))}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=directory, env={**settings, "EARLYBELL_DEVICES": "cpu", **(variables or {})}, input=text,
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout


def source_files() -> Iterator[str]:
    """The files of the four directories as they should be installed, whether or not anything links to them."""
    for directory in DIRECTORIES:
        for file in (ROOT / directory).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts and file.suffix != ".so":
                yield f"earlybell/{file.relative_to(ROOT).as_posix()}"


def kernel_sources() -> set[str]:
    """The files that the library is compiled from: in the sdist, not in the wheel."""
    return {
        name for name in source_files() if name.startswith("earlybell/inference/kernels/") and name[-2:] in (".c", ".h")
    }


def test_the_wheel_holds_every_file_once_and_nothing_else(wheel: Path) -> None:
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    for pattern in NEEDED_AT_RUN_TIME:
        assert any(Path(name).match(pattern) for name in names), pattern
    assert len(names) == len(set(names))
    only_in_a_checkout = {
        f"earlybell/deploy/{name}"
        for name in ("Dockerfile", "Dockerfile.dockerignore", "compose.yaml", "prerequisites.sh")
    }
    assert set(names) == {*TOP_LEVEL, *source_files(), KERNELS} - only_in_a_checkout - kernel_sources()


def test_the_sdist_holds_every_file_once_and_no_links(sdist: Path, wheel: Path) -> None:
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    names = [member.name.partition("/")[2] for member in members]
    assert all(member.isfile() for member in members)
    assert len(names) == len(set(names))
    packaged = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name} - {KERNELS}
    assert packaged == {name for name in names if name.startswith("earlybell/")} - kernel_sources()
    assert kernel_sources() <= set(names)
    assert "hatch_build.py" in names


def test_the_wheel_is_the_same_from_the_sdist_and_from_a_checkout(wheel: Path, tmp_path: Path) -> None:
    assert build("wheel", ROOT, tmp_path / "wheel").read_bytes() == wheel.read_bytes()


def test_both_packages_keep_their_files(environment: Path, empty: Path) -> None:
    program = """
import json
from importlib.metadata import distribution
print(json.dumps([
    [str(file.locate()), file.hash.value]
    for name in ("earlybell", "inference") for file in distribution(name).files if file.hash
]))
"""
    installed = json.loads(run([environment / "bin" / "python", "-c", program], empty))
    assert any(name.endswith("site-packages/inference/engine.py") for name, _ in installed)
    assert any(name.endswith("site-packages/earlybell/inference/engine.py") for name, _ in installed)
    for name, expected in installed:
        assert Path(name).is_relative_to(environment)
        digest = hashlib.sha256(Path(name).read_bytes()).digest()
        assert base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == expected, name


def test_earlybell_score_runs_from_an_empty_directory(environment: Path, empty: Path) -> None:
    headlines = "Acme profit soars to a record\nBorealis shares plunge after a profit warning\n"
    output = run([environment / "bin" / "earlybell", "score", "-"], empty, text=headlines)
    assert [json.loads(line)["label"] for line in output.splitlines()] == ["positive", "negative"]
    assert list(empty.iterdir()) == []


def test_earlybell_score_needs_neither_a_compiler_nor_torch(environment: Path, empty: Path, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    for name in ("torch", "transformers"):
        (hidden / f"{name}.py").write_text(f"raise ImportError({name!r} + ' is hidden')\n")
    variables = {"PATH": str(environment / "bin"), "PYTHONPATH": str(hidden)}
    python = environment / "bin" / "python"
    no_compiler = "import shutil; assert not any(map(shutil.which, ('cc', 'gcc', 'clang')))"
    run([python, "-c", no_compiler], empty, variables=variables)
    run([python, "-c", "import torch"], empty, fails=True, variables=variables)
    output = run(
        [environment / "bin" / "earlybell", "score", "-"], empty, text="Acme profit soars\n", variables=variables
    )
    assert json.loads(output)["label"] == "positive"


def test_the_public_names_work_beside_the_other_package(environment: Path, empty: Path) -> None:
    program = """
import earlybell, inference, inference.engine
predictions = earlybell.open_engine("cpu").score(["Acme profit soars to a record"])
item = earlybell.decode_news(b'{"id": "1", "headline": "Acme", "published_at": "2026-01-05T09:30:00+01:00"}')
assert earlybell.decode_news(earlybell.encode(item)) == item
print(earlybell.__file__, inference.OWNER, inference.engine.OWNER, len(predictions), sep="\\n")
"""
    file, *rest = run([environment / "bin" / "python", "-c", program], empty).splitlines()
    assert Path(file).is_relative_to(environment)
    assert rest == ["the other package", "the other package", "1"]


def test_a_users_program_is_type_checked_against_the_wheel(environment: Path, empty: Path) -> None:
    pytest.importorskip("mypy", reason="mypy is not installed")
    (empty / "user.py").write_text(USER_PROGRAM)
    (empty / "wrong.py").write_text(WRONG_PROGRAM)
    (empty / "mypy.ini").write_text(MYPY_SETTINGS)
    mypy = [str(environment / "bin" / "python"), "-m", "mypy", "--no-error-summary", "--cache-dir", os.devnull]
    output = run([*mypy, "user.py", "wrong.py"], empty, fails=True).splitlines()
    assert sorted(line.partition("  [")[0] for line in output) == [
        'user.py:3: note: Revealed type is "list[str] | None"',
        'wrong.py:2: error: Argument 1 to "decode_news" has incompatible type "str"; expected "bytes | None"',
        'wrong.py:3: error: Module has no attribute "nonsense"',
    ]
