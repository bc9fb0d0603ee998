"""A benchmark that this machine cannot run is skipped, with the reason."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import cast

import pytest

from earlybell.inference.training.data import DataError
from tests.benchmarks import __main__ as benchmarks


def module(**attributes: object) -> ModuleType:
    return cast(ModuleType, SimpleNamespace(**attributes))


def test_only_a_benchmark_that_needs_data_is_skipped_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_data() -> None:
        raise DataError("no training data")

    monkeypatch.setattr(benchmarks, "data_directory", no_data)
    assert benchmarks.missing(module()) is None
    assert benchmarks.missing(module(NEEDS_DATA=True)) == "no training data"


def test_a_benchmark_names_what_else_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks, "data_directory", lambda: None)
    assert benchmarks.missing(module(NEEDS_DATA=True, missing=lambda: "no GPU")) == "no GPU"
    assert benchmarks.missing(module(NEEDS_DATA=True, missing=lambda: None)) is None
