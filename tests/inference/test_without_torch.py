"""Serving in int8 imports neither torch nor transformers: they cost seconds and hundreds of megabytes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from earlybell.inference.kernels import library
from earlybell.inference.pool.pool import Pool
from earlybell.inference.predictions import ModelDescription, Predictions, Scorer
from earlybell.streams.model import scorer
from earlybell.streams.settings import Settings

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


class Listing:
    """A scorer that answers with the number of refused modules that its process has imported."""

    def __init__(self, inner: Scorer) -> None:
        self.inner = inner

    @property
    def description(self) -> ModelDescription:
        return self.inner.description

    def warm_up(self) -> None:
        self.inner.warm_up()

    def score(self, texts: Sequence[str]) -> Predictions:
        predictions = self.inner.score(texts)
        imported = {name.partition(".")[0] for name in sys.modules}
        predictions.tokens[:] = len(imported & set(REFUSED))
        return predictions


def listing(device: str) -> Scorer:
    return Listing(scorer(Settings(devices="cpu", precision="int8"))(device))


async def test_a_worker_of_the_pool_imports_neither() -> None:
    async with Pool(listing, ["cpu"]) as pool:
        result = await pool.score(["Acme profit soars to a record", "Ærø A/S fyrer folk"])
    assert not result.faults
    assert np.array_equal(result.predictions.tokens, [0, 0])
