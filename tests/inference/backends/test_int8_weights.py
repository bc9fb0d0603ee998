"""The compiled int8 kernels against the model in float32, and their library."""

from __future__ import annotations

import ctypes
import stat
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from earlybell.inference.backends.int8_weights import activation_terms, is_supported
from earlybell.inference.kernels import build, structs
from earlybell.inference.model.elbert import Config, ElbertForSequenceClassification
from tests.inference.backends.stepwise import Stepwise

pytestmark = pytest.mark.skipif(build.library() is None, reason="no C compiler here: no int8 kernels")

SHAPES = {
    "headlines": Config(vocabulary=200, embedding=64, hidden=64, heads=2, feed_forward=256, layers=3),
    "factorised": Config(vocabulary=200, embedding=32, hidden=96, heads=4, feed_forward=160, layers=3, projection=True,
                         activation="gelu_new", head="cls", head_hidden=48, shared_head=True, depth_zero=False),
    "wide heads": Config(vocabulary=200, embedding=128, hidden=128, heads=2, feed_forward=80, layers=2, groups=2,
                         activation="relu", head_hidden=16),
    "odd heads": Config(vocabulary=200, embedding=48, hidden=48, heads=3, feed_forward=64, layers=2, inner_layers=2),
    "three vectors a head": Config(vocabulary=200, embedding=96, hidden=96, heads=2, feed_forward=64, layers=1),
    "filters": Config(vocabulary=200, embedding=64, hidden=64, heads=2, feed_forward=64, layers=2, head="cls",
                      depth_zero_filters=80),
}  # fmt: skip


def model_of(config: Config) -> ElbertForSequenceClassification:
    torch.manual_seed(7)
    model = ElbertForSequenceClassification(config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim > 1:
                value.mul_(4.0)
            elif "bias" in name:
                value.normal_(std=0.1)
    return model


def rows_of(lengths: list[int]) -> list[np.ndarray]:
    generator = np.random.default_rng(3)
    return [generator.integers(1, 200, length, dtype=np.int32) for length in lengths]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_depth_follows_the_model_in_float32(shape: str) -> None:
    config = SHAPES[shape]
    model = model_of(config)
    kernels = Stepwise(model)
    rows = rows_of([2, 7, 16, 17, 33, 1, 130])
    packed = kernels.embed(rows)
    for depth in range(config.layers + 1):
        if depth:
            kernels.deepen(packed, model.config.group_at(depth))
        start = 0
        for text, row in enumerate(rows):
            with torch.inference_mode():
                ids = torch.from_numpy(row.astype(np.int64))[None]
                live = torch.ones_like(ids, dtype=torch.bool)
                x = model.embed(ids)
                for below in range(1, depth + 1):
                    x, live = model.deepen(x, live, below)
                states = packed.hidden[start : start + len(row)]
                assert np.sqrt(np.mean((states - x[0].numpy()) ** 2)) < (0.05 if depth else 0.02) * float(x.std())
                if depth in config.depths:
                    logits = model.exit_logits(x, live, depth)[0].numpy()
                    assert kernels.logits(packed, depth)[text] == pytest.approx(logits, abs=0.1)
            start += len(row)


def test_the_exits_are_float32_through_and_through() -> None:
    """At depth 0 nothing is quantised (there is no projection), so all that is left is rounding."""
    model = model_of(SHAPES["headlines"])
    kernels = Stepwise(model)
    rows = rows_of([5, 9, 40, 3, 8, 12, 7])
    found = kernels.logits(kernels.embed(rows), 0)
    for row, logits in zip(rows, found, strict=True):
        ids = torch.from_numpy(row.astype(np.int64))[None]
        with torch.inference_mode():
            expected = model.exit_logits(model.embed(ids), torch.ones_like(ids, dtype=torch.bool), 0)[0]
        assert logits == pytest.approx(expected.numpy(), abs=2e-5)


def test_features_of_neighbours_follow_the_model_and_do_not_hang_on_other_texts() -> None:
    """A text of one token has no neighbour, one of 130 is longer than a tile, and the ends have one neighbour."""
    model = model_of(SHAPES["filters"])
    kernels = Stepwise(model)
    rows = rows_of([1, 2, 3, 130, 16, 95, 1, 40, 96, 97, *range(1, 30)])
    together = kernels.logits(kernels.embed(rows), 0)
    for row, found in zip(rows, together, strict=True):
        assert np.array_equal(kernels.logits(kernels.embed([row]), 0)[0], found)
        ids = torch.from_numpy(row.astype(np.int64))[None]
        with torch.inference_mode():
            expected = model.exit_logits(model.embed(ids), torch.ones_like(ids, dtype=torch.bool), 0)[0]
        assert found == pytest.approx(expected.numpy(), abs=0.05)
    backwards = kernels.logits(kernels.embed(rows[::-1]), 0)
    assert np.array_equal(backwards[::-1], together)
    with torch.no_grad():
        model.exit_zero.filters.bias.sub_(1e3)  # type: ignore[union-attr]
    unheard = Stepwise(model)
    assert (np.abs(unheard.logits(unheard.embed(rows), 0) - together).max(1) > 0.1).all()


def test_pruning_keeps_the_tokens_that_float32_keeps() -> None:
    model = model_of(SHAPES["headlines"])
    kernels = Stepwise(model)
    rows = rows_of([30, 12, 2, 64])
    keep = np.array([18, 12, 2, 20], np.int32)
    packed = kernels.embed(rows)
    kernels.deepen(packed, 0, keep)
    assert packed.lengths.tolist() == keep.tolist()
    start, alike, total = 0, 0.0, 0
    for row, left in zip(rows, keep.tolist(), strict=True):
        ids = torch.from_numpy(row.astype(np.int64))[None]
        with torch.inference_mode():
            live = torch.ones_like(ids, dtype=torch.bool)
            x, _ = model.deepen(model.embed(ids), live, 1, torch.tensor([left]))
        near = np.abs(packed.hidden[start : start + left] - x[0].numpy()).max(1) < 0.3
        alike, total, start = alike + near.sum(), total + left, start + left
    # Where two tokens contribute almost alike, int8 may keep the other one, and those after it move up.
    assert alike / total > 0.8


def test_selected_texts_move_together() -> None:
    kernels = Stepwise(model_of(SHAPES["headlines"]))
    rows = rows_of([4, 1, 9, 3])
    packed = kernels.embed(rows)
    before = packed.hidden.copy()
    kernels.compact(packed, np.array([False, True, False, True]))
    assert packed.lengths.tolist() == [1, 3]
    assert np.array_equal(packed.hidden[:4], before[[4, 14, 15, 16]])
    kernels.compact(packed, np.array([False, False]))
    assert len(packed.lengths) == 0


@pytest.mark.parametrize("name", ["gelu", "gelu_new"])
def test_the_polynomial_stands_for_the_activation(name: str) -> None:
    clamp, terms = activation_terms(name)
    values = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    z = values.clamp(-clamp, clamp)
    ours = values * (0.5 + z * sum(term * z ** (2 * power) for power, term in enumerate(terms)))
    exact = torch.nn.functional.gelu(values, approximate="none" if name == "gelu" else "tanh")
    assert float(((ours - exact) / (1 + values.abs())).abs().max()) < 3e-5


def test_a_shape_that_does_not_fill_vectors_is_left_to_torch() -> None:
    odd = Config(vocabulary=20, embedding=40, hidden=40, heads=4, feed_forward=64)
    assert not is_supported(odd)
    with pytest.raises(ValueError, match="multiples of 16"):
        Stepwise(ElbertForSequenceClassification(odd))


def test_the_library_is_built_once_and_survives_a_broken_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build.library.cache_clear()
    try:
        assert build.library() is not None
        (built,) = (tmp_path / "earlybell" / "engine").glob("*.so")
        stamp = built.stat().st_mtime_ns
        build.library.cache_clear()
        assert build.library() is not None
        assert built.stat().st_mtime_ns == stamp
        broken = tmp_path / "cc"
        broken.write_text("#!/bin/sh\nexit 1\n")
        broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("CC", str(broken))
        build.library.cache_clear()
        assert build.library() is None
        assert not list((tmp_path / "earlybell" / "engine").glob("*.partial"))
    finally:
        monkeypatch.undo()
        build.library.cache_clear()


def test_a_changed_header_is_another_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structs, "check", lambda library: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "answer.h").write_text("#define ANSWER 1\n")
    (tmp_path / "answer.c").write_text('#include "answer.h"\nint earlybell_answer(void) { return ANSWER; }\n')
    monkeypatch.setattr(build, "SOURCES", (tmp_path / "answer.c",))
    monkeypatch.setattr(build, "HEADERS", (tmp_path / "answer.h",))
    try:
        for answer in (1, 2):
            (tmp_path / "answer.h").write_text(f"#define ANSWER {answer}\n")
            build.library.cache_clear()
            built = build.library()
            assert built is not None
            assert built.earlybell_answer() == answer
    finally:
        monkeypatch.undo()
        build.library.cache_clear()


def test_nowhere_to_keep_the_library_is_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a directory")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    build.library.cache_clear()
    try:
        assert build.library() is None
    finally:
        monkeypatch.undo()
        build.library.cache_clear()


@pytest.mark.parametrize("wrong", [{"PANEL": 32}, {"TERMS": 8}])
def test_kernels_of_another_layout_are_refused(wrong: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    library = build.library()
    assert library is not None
    structs.check(library)
    for name, value in wrong.items():
        monkeypatch.setitem(structs._CONSTANTS, name, value)
        with pytest.raises(RuntimeError, match=name):
            structs.check(library)


def test_a_structure_of_another_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    library = build.library()
    assert library is not None

    class Norm(structs.Norm):
        _fields_: ClassVar = [("added", ctypes.c_int64)]

    monkeypatch.setattr(structs, "_STRUCTURES", (structs.Linear, Norm, *structs._STRUCTURES[2:]))
    with pytest.raises(RuntimeError, match="Norm is"):
        structs.check(library)
