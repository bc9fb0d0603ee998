"""Workers of one pool answer in one arithmetic, unless they are told otherwise: then each answer names its own."""

from __future__ import annotations

import asyncio
import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from earlybell.inference.engine import open_engine
from earlybell.inference.kernels import library
from earlybell.inference.pool.pool import Pool, PoolError
from tests.inference.pool.callers import begun, expect, go_on, in_a_loop, numbers, until
from tests.inference.pool.engines import engine_in, obedient_in
from tests.inference.pool.scorers import obedient

needs_int8 = pytest.mark.skipif(library.load() is None, reason="int8 kernels are not available here")
DEVICES = ["cpu:int8", "cpu:float32"]


@needs_int8
@in_a_loop
async def test_int8_and_float32_in_one_pool_are_refused(tiny_checkpoint: Path) -> None:
    pool = Pool(partial(engine_in, checkpoint=tiny_checkpoint), DEVICES)
    with pytest.raises(PoolError, match=r"cpu as \w+\+int8\.\d+, cpu as \w+\+float32\.cpu\.torch") as refused:
        await pool.start()
    assert "EARLYBELL_MIXED_ARITHMETIC" in str(refused.value)
    assert "\n" not in str(refused.value)


@needs_int8
@in_a_loop
async def test_if_allowed_each_answer_names_the_arithmetic_that_it_comes_from(
    tiny_checkpoint: Path, texts: list[str]
) -> None:
    alone = {
        precision: open_engine("cpu", checkpoint=tiny_checkpoint, precision=precision, threads=1)
        for precision in ("int8", "float32")
    }
    async with Pool(partial(engine_in, checkpoint=tiny_checkpoint), DEVICES, mixed_arithmetic=True) as pool:
        results = await asyncio.gather(*(pool.score([text]) for text in texts))
    for text, result in zip(texts, results, strict=True):
        (description,) = result.descriptions
        expected = alone[description.precision]
        assert description.served_revision == expected.description.served_revision
        answer = expected.score([text])
        assert np.abs(result.predictions.probabilities - answer.probabilities).max() <= 1e-6
    assert {result.descriptions[0].precision for result in results} == {"int8", "float32"}


@in_a_loop
async def test_workers_of_one_arithmetic_share_a_pool() -> None:
    async with Pool(obedient(), ["cpu:0", "cpu:1"]) as pool:
        result = await pool.score(numbers(3))
        assert [description.arithmetic for description in result.descriptions] == ["none"] * 3


@in_a_loop
async def test_a_worker_that_would_answer_otherwise_than_before_gets_no_window(tmp_path: Path) -> None:
    arithmetic, built = tmp_path / "arithmetic", tmp_path / "built"
    arithmetic.write_text("int8.2")
    make_scorer = partial(obedient_in, arithmetic=arithmetic, built=built)
    async with Pool(make_scorer, ["cpu"], backoff_s=0.01) as pool:
        task = asyncio.create_task(pool.score([f"0 wait {tmp_path}", "1"]))
        await begun(tmp_path, 0)
        arithmetic.write_text("float32.cpu.torch2.13")
        os.kill(pool.pids[0], signal.SIGKILL)
        go_on(tmp_path, 0)
        await until(lambda: len(built.read_text().split()) >= 3)
        assert pool.pids == []
        assert not task.done()
        arithmetic.write_text("int8.2")
        result = await task
        expect(result, [f"0 wait {tmp_path}", "1"], set())
        assert {description.arithmetic for description in result.descriptions} == {"int8.2"}
