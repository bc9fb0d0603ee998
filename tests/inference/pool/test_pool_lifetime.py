"""The pool's workers from start to stop and through a hot swap; none is left when the pool is gone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from earlybell.inference.pool.pool import Pool, PoolError, devices
from tests.inference.pool.callers import answers, begun, expect, go_on, in_a_loop, numbers, until, workers_of
from tests.inference.pool.scorers import dies_while_loading, never_ready, obedient, without_checkpoint
from tests.patience import PATIENCE_S

REPOSITORY = Path(__file__).parents[3]


class TestHotSwap:
    @in_a_loop
    async def test_under_load_each_result_names_the_model_that_scored_it(self, tmp_path: Path) -> None:
        async with Pool(obedient("first"), ["cpu", "cpu"]) as pool:
            before = set(pool.pids)
            early = [asyncio.create_task(pool.score([f"{i} wait {tmp_path}"])) for i in range(4)]
            await begun(tmp_path, 0)
            await begun(tmp_path, 1)
            late = [asyncio.create_task(pool.score(numbers(3, 10 * i))) for i in range(50)]
            swap = asyncio.create_task(pool.replace(obedient("second")))
            await until(lambda: pool.description.model_revision == "second")
            # The old workers still hold four windows; the new ones score those that waited behind.
            for i, result in enumerate(await asyncio.gather(*late)):
                assert result.descriptions[0].model_revision == "second"
                expect(result, numbers(3, 10 * i), set())
            assert not swap.done()
            go_on(tmp_path, *range(4))
            for i, result in enumerate(await asyncio.gather(*early)):
                assert result.descriptions[0].model_revision == "first"
                assert answers(result) == [i]
            assert (await swap).model_revision == "second"
            assert len(pool.pids) == 2
            assert not before & set(workers_of(os.getpid()))

    @in_a_loop
    async def test_the_windows_of_an_old_worker_that_dies_go_to_the_new_one(self, tmp_path: Path) -> None:
        async with Pool(obedient("first"), ["cpu"]) as pool:
            (old,) = pool.pids
            task = asyncio.create_task(pool.score([f"0 wait {tmp_path}", "1"]))
            await begun(tmp_path, 0)
            swap = asyncio.create_task(pool.replace(obedient("second")))
            await until(lambda: pool.description.model_revision == "second")
            os.kill(old, signal.SIGKILL)
            go_on(tmp_path, 0)
            result = await task
            assert answers(result) == [0, 1]
            assert result.descriptions[0].model_revision == "second"
            await swap

    @in_a_loop
    async def test_an_idle_pool_swaps(self) -> None:
        async with Pool(obedient("first"), ["cpu"]) as pool:
            before = pool.pids
            description = await pool.replace(obedient("second"))
            assert description == pool.description == (await pool.score(["1"])).descriptions[0]
            assert description.model_revision == "second"
            assert workers_of(os.getpid()) == pool.pids != before

    @in_a_loop
    async def test_if_the_new_scorer_fails_the_old_one_stays_in_service(self) -> None:
        async with Pool(obedient("first"), ["cpu"]) as pool:
            for broken in (without_checkpoint, dies_while_loading):
                with pytest.raises(PoolError):
                    await pool.replace(broken)
            result = await pool.score(numbers(3))
            assert result.descriptions[0].model_revision == "first"
            assert len(workers_of(os.getpid())) == 1


class TestStartAndStop:
    @in_a_loop
    async def test_a_worker_collects_no_garbage_in_what_it_has_loaded(self) -> None:
        async with Pool(obedient(), ["cpu"]) as pool:
            assert answers(await pool.score(["0 frozen"]))[0] > 0

    @pytest.mark.parametrize(
        ("make_scorer", "reason"),
        [
            (without_checkpoint, "FileNotFoundError: no checkpoint for cpu: /nowhere/model.safetensors"),
            (dies_while_loading, "SIGSEGV"),
            (never_ready, "not ready within"),
            (lambda device: device, "cannot be sent to a worker"),
        ],
    )
    @in_a_loop
    async def test_a_scorer_that_cannot_be_built_is_a_one_line_error(self, make_scorer: Any, reason: str) -> None:
        timeout = 0.2 if make_scorer is never_ready else 60
        pool = Pool(make_scorer, ["cpu", "cpu"], start_timeout_s=timeout)
        with pytest.raises(PoolError, match=reason) as failure:
            await pool.start()
        assert "\n" not in str(failure.value)

    @in_a_loop
    async def test_stopping_the_pool_raises_in_pending_calls(self, tmp_path: Path) -> None:
        pool = Pool(obedient(), ["cpu"])
        await pool.start()
        tasks = [asyncio.create_task(pool.score([f"{i} wait {tmp_path}"])) for i in range(4)]
        await begun(tmp_path, 0)
        await pool.stop()
        for task in tasks:
            with pytest.raises(PoolError, match="stopped"):
                await task
        with pytest.raises(PoolError, match="stopped"):
            await pool.score(["1"])
        await pool.stop()

    @in_a_loop
    async def test_an_error_of_the_pool_itself_raises_in_every_call(self, tmp_path: Path) -> None:
        async with Pool(obedient(), ["cpu"]) as pool:
            windows = [[f"0 wait {tmp_path}", "1 damage"], ["2"], ["3"]]  # scored, held by the worker, waiting
            tasks = [asyncio.create_task(pool.score(window)) for window in windows]
            await begun(tmp_path, 0)
            go_on(tmp_path, 0)
            for task in tasks:
                with pytest.raises(PoolError, match="the pool failed: EOFError: the pickle is damaged"):
                    await task
            with pytest.raises(PoolError, match="the pool failed"):
                await pool.score(["4"])

    @in_a_loop
    async def test_stopped_or_cancelled_while_starting_it_leaves_no_worker(self) -> None:
        async def end(
            pool: Pool, starting: asyncio.Task[Any], how: Callable[[], Awaitable[None]]
        ) -> BaseException | None:
            await until(lambda: workers_of(os.getpid()))
            await how()
            await asyncio.wait([starting])
            assert workers_of(os.getpid()) == []
            return asyncio.CancelledError() if starting.cancelled() else starting.exception()

        pool = Pool(never_ready, ["cpu"])
        starting = asyncio.create_task(pool.start())
        assert isinstance(await end(pool, starting, pool.stop), PoolError)

        async def cancel() -> None:
            starting.cancel()

        pool = Pool(never_ready, ["cpu"])
        starting = asyncio.create_task(pool.start())
        assert isinstance(await end(pool, starting, cancel), asyncio.CancelledError)

    @in_a_loop
    async def test_workers_ignore_signals_while_they_start(self) -> None:
        pool = Pool(obedient(), ["cpu"])
        starting = asyncio.create_task(pool.start())
        await until(lambda: workers_of(os.getpid()))
        (worker,) = workers_of(os.getpid())
        while not starting.done():
            os.kill(worker, signal.SIGINT)
            os.kill(worker, signal.SIGTERM)
            await asyncio.sleep(0.001)
        await starting
        assert pool.pids == [worker]
        await pool.stop()

    @in_a_loop
    async def test_before_start_there_is_no_model(self) -> None:
        pool = Pool(obedient(), ["cpu"])
        with pytest.raises(PoolError, match="not been started"):
            await pool.score(["1"])


PARENT = """
import asyncio, sys
import structlog
from earlybell.inference.pool.pool import Pool
from tests.inference.pool.scorers import obedient

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

async def main():
    pool = Pool(obedient(), ["cpu", "cpu", "cpu"])
    await pool.start()
    texts = (["0 hang"], [f"1 wait {sys.argv[1]}"], ["2 stdout"])
    windows = [asyncio.create_task(pool.score(window)) for window in texts]
    await windows[2]
    print("ready", flush=True)
    if sys.argv[2] == "return":
        return
    if sys.argv[2] == "exit":
        asyncio.get_running_loop().stop()
    await asyncio.gather(*windows)

if sys.argv[2] == "exit":
    loop = asyncio.new_event_loop()
    loop.create_task(main())
    loop.run_forever()
else:
    asyncio.run(main())
"""


@pytest.mark.parametrize("how", ["SIGKILL", "Ctrl-C", "return", "exit"])
def test_when_the_parent_is_gone_its_workers_are_too(tmp_path: Path, how: str) -> None:
    """Of three workers one hangs in native code, one is mid-window and one is idle."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path), how],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    family: list[psutil.Process] = []
    try:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"  # and no output of a worker
        family += psutil.Process(parent.pid).children(recursive=True)
        if how == "SIGKILL":
            parent.kill()
        elif how == "Ctrl-C":
            os.killpg(parent.pid, signal.SIGINT)
        parent.wait(PATIENCE_S)
        # Not `wait_procs`: in a container there may be no init process to reap orphans.
        while [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]:
            time.sleep(0.02)  # until the test times out, if one survives
    finally:
        for process in (psutil.Process(parent.pid), *family) if parent.poll() is None else family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        parent.wait()


class TestDevices:
    @pytest.mark.parametrize(
        ("setting", "named"),
        [("cpu", ["cpu"]), ("cuda:0, cuda:1", ["cuda:0", "cuda:1"]), ("cpu,cpu", ["cpu", "cpu"])],
    )
    def test_a_list_names_one_worker_each(self, setting: str, named: list[str]) -> None:
        assert devices(setting) == named

    def test_auto_is_every_gpu_that_torch_sees_or_else_the_cpu(self) -> None:
        program = "import torch; print(torch.cuda.device_count())"
        gpus = int(subprocess.check_output([sys.executable, "-c", program], text=True))
        assert devices("auto") == ([f"cuda:{i}" for i in range(gpus)] or ["cpu"])

    @pytest.mark.parametrize("setting", ["", "gpu", "cuda", "cuda:0,", "cuda:x", "auto,cpu"])
    def test_a_malformed_setting_is_refused(self, setting: str) -> None:
        with pytest.raises(PoolError, match="say auto, cpu, or a list"):
            devices(setting)

    def test_the_parent_imports_no_torch(self) -> None:
        program = (
            "import sys; from earlybell.inference.pool.pool import devices;"
            " devices('auto'); print('torch' in sys.modules)"
        )
        answer = subprocess.check_output([sys.executable, "-c", program], text=True, cwd=REPOSITORY)
        assert answer == "False\n"
