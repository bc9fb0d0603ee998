"""`import earlybell`: what it offers, and what it does not load."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

import earlybell

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "numpy", "kafka", "aiokafka", "faust", "sqlalchemy", "psycopg2", "pydantic")


def loaded_after(program: str) -> set[str]:
    """Those of `HEAVY` that a fresh interpreter has loaded at the end of the program."""
    program += f"\nimport sys\nprint(*(name for name in {HEAVY!r} if name in sys.modules))"
    return set(subprocess.check_output([sys.executable, "-c", program], cwd=ROOT, text=True).split())


@pytest.mark.parametrize(
    ("program", "loaded"),
    [
        ("import earlybell; dir(earlybell); earlybell.__version__", set()),
        ("from earlybell import NewsItem, SentimentSignal, decode_news, decode_signal, encode", set()),
        ("from earlybell import Predictions", {"numpy"}),
    ],
)
def test_only_what_is_used_is_loaded(program: str, loaded: set[str]) -> None:
    assert loaded_after(program) == loaded


def test_as_of_queries_load_no_model_and_no_kafka() -> None:
    assert not loaded_after("from earlybell import open_snapshot, signals_as_of") & {
        "torch",
        "kafka",
        "aiokafka",
        "faust",
    }


def test_the_engine_loads_no_kafka_and_no_sql() -> None:
    heavy = loaded_after("from earlybell import open_engine")
    assert not heavy & {"kafka", "aiokafka", "faust", "sqlalchemy", "psycopg2"}


def test_each_name_is_what_a_type_checker_sees() -> None:
    """The imports for type checkers and the table for run time are two lists; they must agree."""
    source = ast.parse(Path(earlybell.__file__).read_text(encoding="utf-8"))
    imports = {
        alias.name: node.module
        for node in ast.walk(source)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("earlybell.")
        for alias in node.names
    }
    assert {*imports, "__version__"} == set(earlybell.__all__) <= set(dir(earlybell))
    for name, module in imports.items():
        assert getattr(earlybell, name) is getattr(import_module(module), name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        earlybell.nonsense  # type: ignore[attr-defined]  # noqa: B018


def test_the_version_is_the_installed_one() -> None:
    assert earlybell.__version__ == version("earlybell")
