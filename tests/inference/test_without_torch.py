"""Serving in int8 imports neither torch nor transformers: they cost seconds and hundreds of megabytes."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from earlybell.inference.kernels import library
from earlybell.inference.pool.pool import Pool
from earlybell.streams.model import scorer
from earlybell.streams.settings import Settings
from tests.inference.pool.scorers import sparing

pytestmark = pytest.mark.skipif(library.load() is None, reason="no kernels here")

ROOT = Path(__file__).parents[2]
REFUSED = ("torch", "transformers")
#: Runs a module of the package in an interpreter where these cannot be imported.
WITHOUT = f"""
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {REFUSED}:
            raise ImportError(name + " is not to be imported")

sys.meta_path.insert(0, Refuse())
"""


def without_torch(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT + program, *arguments],
        cwd=ROOT, check=False, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_the_refusal_refuses() -> None:
    assert "torch is not to be imported" in without_torch("import torch").stderr


def test_an_engine_scores_texts() -> None:
    program = """
import earlybell
engine = earlybell.open_engine(precision="int8")
print(engine.score(["Acme profit soars to a record"]).probabilities.argmax(1))
"""
    ran = without_torch(program)
    assert ran.stdout == "[2]\n", ran.stderr


def test_the_command_scores_texts(tmp_path: Path) -> None:
    """In this process; its worker is another, for which see below."""
    file = tmp_path / "texts"
    file.write_text("Acme profit soars to a record\n")
    program = """
from earlybell.streams import cli
if __name__ == "__main__":
    sys.exit(cli.execute(["score", sys.argv[1]]))
"""
    ran = without_torch(program, str(file))
    assert (ran.returncode, json.loads(ran.stdout)["label"]) == (0, "positive"), ran.stderr


async def test_a_worker_of_the_pool_imports_no_more_than_it_needs() -> None:
    make_scorer = partial(sparing, scorer(Settings(devices="cpu", precision="int8")))
    async with Pool(make_scorer, ["cpu"]) as pool:
        result = await pool.score(["Acme profit soars to a record"])
    assert result.predictions.probabilities.argmax(1).tolist() == [2]
