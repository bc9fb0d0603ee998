"""The pool with real processes: however workers die, each text has exactly one prediction or one fault."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import random
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from earlybell.inference.pool.pool import Pool, WindowResult
from earlybell.inference.pool.worker_slot import ADAPTIVE
from tests.inference.pool.callers import answers, begun, expect, go_on, in_a_loop, numbers, until
from tests.inference.pool.scorers import REFUSED, Unreadable, obedient, obedient_of, overlapping


class TestOrder:
    @pytest.mark.parametrize("loop_factory", [None, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
    def test_every_window_gets_its_own_answer_once(self, loop_factory: Any) -> None:
        async def run() -> None:
            async with Pool(obedient(), ["cpu", "cpu"]) as pool:
                assert pool.capacity == 4
                assert pool.description.model_revision == "first"
                windows = [numbers(1 + i % 7, 1000 * i) for i in range(200)]
                results = await asyncio.gather(*(pool.score(window) for window in windows))
                for window, result in zip(windows, results, strict=True):
                    expect(result, window, set())
                    assert result.inference_s > 0
                    assert result.queue_s > 0
                assert pool.restarts == 0

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(run())

    @in_a_loop
    async def test_an_empty_window_gives_no_rows(self) -> None:
        async with Pool(obedient(), ["cpu"]) as pool:
            result = await pool.score([])
            assert len(result.predictions) == 0
            assert result.predictions.probabilities.shape == (0, 3)

    @in_a_loop
    async def test_a_windows_own_dial_is_in_its_description_only(self) -> None:
        async with Pool(obedient(), ["cpu"]) as pool:
            windows = await asyncio.gather(
                pool.score(numbers(2), 0.9), pool.score(numbers(2)), pool.score(numbers(1), 0.1)
            )
            described = [(result.descriptions[0].policy, result.descriptions[0].dial) for result in windows]
            own = pool.description
            assert described == [(ADAPTIVE, 0.9), (own.policy, own.dial), (ADAPTIVE, 0.1)]

    @in_a_loop
    async def test_queueing_and_inference_add_up_to_the_elapsed_time(self) -> None:
        async with Pool(obedient(), ["cpu"]) as pool:
            started = time.monotonic()
            result = await pool.score(numbers(500))
            assert 0 < result.queue_s < result.queue_s + result.inference_s <= time.monotonic() - started

    @in_a_loop
    async def test_windows_larger_than_the_socket_buffer_do_not_block(self) -> None:
        texts = [f"{i} {'long ' * 200_000}" for i in range(8)]  # 8 MB
        async with Pool(obedient(), ["cpu"]) as pool:
            results = await asyncio.gather(*(pool.score(texts) for _ in range(4)))
            assert all(answers(result) == list(range(8)) for result in results)

    @in_a_loop
    async def test_callers_wait_while_all_workers_are_full(self, tmp_path: Path) -> None:
        async with Pool(obedient(), ["cpu", "cpu"], windows_per_worker=2) as pool:
            tasks = [asyncio.create_task(pool.score([f"{i} wait {tmp_path}"])) for i in range(6)]
            # Least loaded first: the first two windows are on two workers.
            await begun(tmp_path, 0)
            await begun(tmp_path, 1)
            assert pool.in_flight == pool.capacity == 4
            assert pool.waiting == 2
            go_on(tmp_path, *range(6))
            assert [answers(await task) for task in tasks] == [[i] for i in range(6)]


class TestDeath:
    @in_a_loop
    async def test_killed_mid_window_a_worker_is_restarted_and_its_windows_run_again(self, tmp_path: Path) -> None:
        async with Pool(obedient(), ["cpu"]) as pool:
            texts = [f"0 wait {tmp_path}", *numbers(9, 1)]
            tasks = [asyncio.create_task(pool.score(window)) for window in (texts, numbers(5, 10), numbers(5, 20))]
            await begun(tmp_path, 0)
            (victim,) = pool.pids
            os.kill(victim, signal.SIGKILL)
            go_on(tmp_path, 0)
            results = await asyncio.gather(*tasks)
            assert [answers(result) for result in results] == [
                list(range(10)),
                list(range(10, 15)),
                list(range(20, 25)),
            ]
            assert not any(result.faults for result in results)
            assert pool.restarts == 1
            assert pool.pids != [victim]

    @in_a_loop
    async def test_killed_while_idle_a_worker_is_restarted(self) -> None:
        async with Pool(obedient(), ["cpu"]) as pool:
            (victim,) = pool.pids
            os.kill(victim, signal.SIGKILL)
            await until(lambda: pool.pids not in ([victim], []))
            expect(await pool.score(numbers(3)), numbers(3), set())
            assert pool.restarts == 1

    @in_a_loop
    async def test_the_other_worker_carries_on(self, tmp_path: Path) -> None:
        async with Pool(obedient(), ["cpu", "cpu"], backoff_s=3600) as pool:
            os.kill(pool.pids[0], signal.SIGKILL)
            results = await asyncio.gather(*(pool.score(numbers(4, 10 * i)) for i in range(20)))
            assert [answers(result)[0] for result in results] == [10 * i for i in range(20)]

    @in_a_loop
    async def test_a_worker_that_hangs_is_killed(self) -> None:
        async with Pool(obedient(), ["cpu"], timeout_s=1.0) as pool:
            texts = [*numbers(2), "2 hang", *numbers(5, 3)]
            bad, good = await asyncio.gather(pool.score(texts), pool.score(numbers(3, 10)))
            expect(bad, texts, {2})
            assert "no answer within" in bad.faults[2]
            expect(good, numbers(3, 10), set())

    @in_a_loop
    async def test_workers_ignore_the_signals_of_terminal_and_service_manager(self) -> None:
        async with Pool(obedient(), ["cpu"]) as pool:
            before = pool.pids
            for number in (signal.SIGINT, signal.SIGTERM):
                os.kill(before[0], number)
            expect(await pool.score(numbers(3)), numbers(3), set())
            assert pool.pids == before

    @in_a_loop
    async def test_windows_wait_while_the_checkpoint_is_missing(self, tmp_path: Path) -> None:
        checkpoint = tmp_path / "checkpoint"
        checkpoint.touch()
        async with Pool(partial(obedient_of, checkpoint=checkpoint), ["cpu"], longest_backoff_s=0.01) as pool:
            checkpoint.unlink()
            os.kill(pool.pids[0], signal.SIGKILL)
            window = asyncio.create_task(pool.score(numbers(3)))
            await until(lambda: pool.restarts >= 3)
            assert not window.done()
            checkpoint.touch()
            expect(await window, numbers(3), set())


class TestFaults:
    @in_a_loop
    async def test_out_of_memory_splits_the_window(self) -> None:
        async with Pool(obedient(most_texts=10), ["cpu"]) as pool:
            expect(await pool.score(numbers(64)), numbers(64), set())
            assert pool.restarts == 0

    @in_a_loop
    async def test_texts_that_raise_are_faults_and_the_others_are_scored(self) -> None:
        texts = [*numbers(20), "20 raise", *numbers(10, 21), "31 memory", "32 raise"]
        async with Pool(obedient(), ["cpu"]) as pool:
            result = await pool.score(texts)
            expect(result, texts, {20, 31, 32})
            assert result.faults[20] == "ValueError: cannot read 20"
            assert result.faults[31] == "MemoryError"
            assert list(result.faults) == [20, 31, 32]
            assert pool.restarts == 0

    @in_a_loop
    async def test_a_text_that_kills_workers_is_isolated_in_a_window_of_64(self) -> None:
        texts = [*numbers(41), "41 kill", *numbers(22, 42)]
        async with Pool(obedient(), ["cpu"], backoff_s=0.001) as pool:
            result = await pool.score(texts)
            expect(result, texts, {41})
            assert "SIGKILL" in result.faults[41]
            assert "2 times" in result.faults[41]
            assert pool.restarts == math.log2(64) + 2

    @in_a_loop
    async def test_several_that_kill_workers_while_other_windows_are_scored(self) -> None:
        texts = ["0 exit", *numbers(6, 1), "7 kill"]
        async with Pool(obedient(), ["cpu", "cpu"], backoff_s=0.001) as pool:
            bad, *good = await asyncio.gather(pool.score(texts), *(pool.score(numbers(3, 10 * i)) for i in range(40)))
            expect(bad, texts, {0, 7})
            assert "exit code 3" in bad.faults[0]
            for i, result in enumerate(good):
                expect(result, numbers(3, 10 * i), set())

    @in_a_loop
    async def test_a_text_that_a_worker_cannot_read_ends_it_at_once(self) -> None:
        async with Pool(obedient(), ["cpu"], timeout_s=3600, backoff_s=0.001) as pool:
            texts = ["0", Unreadable("1"), "2"]
            result = await pool.score(texts)
            expect(result, texts, {1})
            assert "exit code 1" in result.faults[1]

    @in_a_loop
    async def test_a_broken_device_makes_no_text_faulty(self, tmp_path: Path) -> None:
        """After one CUDA error every call fails: the control text shows it, and a new process takes over."""
        async with Pool(obedient(fails_after=tmp_path / "broken"), ["cpu"]) as pool:
            texts = [*numbers(30), "30 break"]
            expect(await pool.score(texts), texts, set())
            assert pool.restarts == 1

    @in_a_loop
    async def test_through_deaths_cancellations_and_a_hot_swap_each_text_has_its_answer(self) -> None:
        """Everything at once: workers killed from outside, texts that kill and raise, cancelled callers, a hot swap."""
        generator = random.Random(11)
        finished: list[WindowResult] = []
        deaths = 4  # from outside; even if all of them hit one text alone, it is not faulty

        async def call(pool: Pool, i: int) -> None:
            texts = numbers(generator.randint(1, 30), 100 * i)
            bad = " kill" if i % 80 == 40 else " raise" if i % 10 == 0 else ""
            texts[-1] += bad
            scoring = asyncio.create_task(pool.score(texts))
            if i % 7 == 3:
                await asyncio.sleep(generator.random() / 50)
                scoring.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                result = await scoring
                expect(result, texts, {len(texts) - 1} if bad else set())
                finished.append(result)

        async def kill(pool: Pool) -> None:
            for _ in range(deaths):
                await until(lambda: pool.pids)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(generator.choice(pool.pids), generator.choice([signal.SIGKILL, signal.SIGSEGV]))
                await asyncio.sleep(generator.random() / 5)

        async with Pool(obedient("first"), ["cpu", "cpu"], backoff_s=0.001, kills_per_text=deaths + 1) as pool:
            await asyncio.gather(kill(pool), pool.replace(obedient("second")), *(call(pool, i) for i in range(200)))
            assert pool.restarts > 0
            assert pool.waiting == pool.in_flight == 0
        assert len(finished) > 150

    def test_any_window_with_any_faulty_texts(self) -> None:
        with asyncio.Runner() as runner:
            pool = Pool(obedient(), ["cpu", "cpu"], backoff_s=0.001, kills_per_text=1)
            runner.run(pool.start())

            @settings(max_examples=8)
            @given(st.lists(st.sampled_from([""] * 12 + [" raise"] * 2 + [" kill"]), max_size=16))
            def examine(words: list[str]) -> None:
                texts = [f"{i}{word}" for i, word in enumerate(words)]
                result = runner.run(pool.score(texts))
                expect(result, texts, {i for i, word in enumerate(words) if word})

            try:
                examine()
            finally:
                runner.run(pool.stop())


class TestOverlap:
    """A worker that begins a window while it finishes the one before: when it dies, both are suspects."""

    @in_a_loop
    async def test_replies_come_in_the_order_of_the_windows(self, tmp_path: Path) -> None:
        async with Pool(overlapping(), ["cpu"]) as pool:
            first, second = (asyncio.create_task(pool.score([f"{i} wait {tmp_path}"])) for i in range(2))
            await begun(tmp_path, 0)
            await begun(tmp_path, 1)
            go_on(tmp_path, 1, 0)
            results = await asyncio.gather(first, second)
            assert [answers(result) for result in results] == [[0], [1]]
            assert all(result.inference_s > 0 for result in results)

    @in_a_loop
    async def test_a_text_beside_one_that_kills_is_not_blamed(self, tmp_path: Path) -> None:
        async with Pool(overlapping(), ["cpu"], kills_per_text=1, backoff_s=0.001) as pool:
            innocent = asyncio.create_task(pool.score([f"0 wait {tmp_path}"]))
            await begun(tmp_path, 0)
            guilty = asyncio.create_task(pool.score(["1 kill"]))
            await until(lambda: pool.restarts)
            go_on(tmp_path, 0)
            assert answers(await innocent) == [0]
            assert list((await guilty).faults) == [0]
            assert pool.restarts == 2, "together, and alone"

    @in_a_loop
    async def test_a_suspect_is_scored_with_nothing_beside_it(self, tmp_path: Path) -> None:
        async with Pool(overlapping(), ["cpu"], backoff_s=0.001) as pool:
            suspects = [asyncio.create_task(pool.score([f"{i} wait {tmp_path}"])) for i in range(2)]
            await begun(tmp_path, 1)
            os.kill(pool.pids[0], signal.SIGKILL)
            await until(lambda: pool.restarts)
            for i in range(2):
                (tmp_path / f"begun-{i}").unlink()
            other = asyncio.create_task(pool.score([f"2 wait {tmp_path}"]))
            await until(lambda: any(tmp_path.glob("begun-*")))
            assert (pool.in_flight, pool.waiting) == (1, 2)
            go_on(tmp_path, 0, 1, 2)
            assert [answers(await window) for window in (*suspects, other)] == [[0], [1], [2]]
            assert pool.restarts == 1

    @in_a_loop
    async def test_a_window_that_cannot_begin_is_a_failure_of_its_texts(self) -> None:
        async with Pool(overlapping(), ["cpu"]) as pool:
            bad, good = await asyncio.gather(pool.score(numbers(2), REFUSED), pool.score(numbers(3)))
            assert set(bad.faults) == {0, 1}
            expect(good, numbers(3), set())
            assert pool.restarts == 0


class TestCancel:
    @in_a_loop
    async def test_a_cancelled_call_does_not_affect_the_others(self, tmp_path: Path) -> None:
        async with Pool(obedient(), ["cpu"]) as pool:
            tasks = [asyncio.create_task(pool.score([f"{i} wait {tmp_path}"])) for i in range(5)]
            await begun(tmp_path, 0)
            for i in (0, 1, 3):  # being scored, at the worker, in the queue
                tasks[i].cancel()
            assert isinstance((await asyncio.gather(tasks[0], return_exceptions=True))[0], asyncio.CancelledError)
            go_on(tmp_path, *range(5))
            assert answers(await tasks[2]) == [2]
            assert answers(await tasks[4]) == [4]
            assert not (tmp_path / "begun-3").exists()
            # The slots are free again.
            results = await asyncio.gather(*(pool.score(numbers(2)) for _ in range(5)))
            assert len(results) == 5
            assert pool.waiting == pool.in_flight == 0
