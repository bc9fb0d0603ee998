from __future__ import annotations

import json
import multiprocessing
import time
from pathlib import Path

import pytest

from earlybell.inference.kernels import autotune


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "earlybell" / "engine"


class Counted:
    """A candidate that counts its runs."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.runs = seconds, 0

    def __call__(self) -> None:
        self.runs += 1
        time.sleep(self.seconds)


def test_the_fastest_candidate_is_chosen_and_never_measured_again() -> None:
    slow, fast = Counted(0.03), Counted(0.0)
    assert autotune.fastest({"slow": slow, "fast": fast}, {"shape": 1}, "slow") == "fast"
    slow.runs = fast.runs = 0
    slow.seconds, fast.seconds = 0.0, 0.03  # as if the machine had become busy
    assert autotune.fastest({"slow": slow, "fast": fast}, {"shape": 1}, "slow") == "fast"
    assert (slow.runs, fast.runs) == (0, 0)


def test_each_question_and_set_of_candidates_has_its_own_choice() -> None:
    slow, fast = Counted(0.03), Counted(0.0)
    autotune.fastest({"a": slow, "b": fast}, {"shape": 1}, "a")
    assert autotune.fastest({"a": fast, "b": slow}, {"shape": 2}, "b") == "a"
    assert autotune.fastest({"b": slow, "c": fast}, {"shape": 1}, "b") == "c"


def test_a_single_candidate_is_not_measured(own_cache: Path) -> None:
    only = Counted(0.0)
    assert autotune.fastest({"only": only}, {}, "only") == "only"
    assert only.runs == 0
    assert not own_cache.exists()


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"choice": 3}', '{"choice": "gone"}'])
def test_after_a_damaged_file_candidates_are_measured_again(own_cache: Path, damage: str) -> None:
    slow, fast = Counted(0.03), Counted(0.0)
    candidates = {"slow": slow, "fast": fast}
    autotune.fastest(candidates, {}, "slow")
    (file,) = own_cache.glob("*.json")
    file.write_text(damage)
    assert autotune.fastest(candidates, {}, "slow") == "fast"
    assert json.loads(file.read_text())["choice"] == "fast"


def test_without_a_cache_directory_the_default_is_chosen_unmeasured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a directory")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    slow, fast = Counted(0.0), Counted(0.0)
    assert autotune.fastest({"slow": slow, "fast": fast}, {}, "slow") == "slow"
    assert (slow.runs, fast.runs) == (0, 0)


def test_a_choice_is_read_from_a_read_only_cache(own_cache: Path) -> None:
    autotune.fastest({"slow": Counted(0.03), "fast": Counted(0.0)}, {}, "slow")
    own_cache.chmod(0o500)
    try:
        assert autotune.fastest({"slow": Counted(0.0), "fast": Counted(0.03)}, {}, "slow") == "fast"
    finally:
        own_cache.chmod(0o700)


def choose(choices: multiprocessing.SimpleQueue[str]) -> None:
    # Equally fast: if each process measured them, the choice would be random.
    choices.put(autotune.fastest({"a": Counted(0.001), "b": Counted(0.001)}, {}, "a"))


def test_processes_that_start_together_make_the_same_choice() -> None:
    context = multiprocessing.get_context("fork")
    choices = context.SimpleQueue()
    processes = [context.Process(target=choose, args=(choices,)) for _ in range(8)]
    for process in processes:
        process.start()
    distinct = {choices.get() for _ in processes}
    for process in processes:
        process.join()
    assert len(distinct) == 1


def test_a_file_is_replaced_atomically(tmp_path: Path) -> None:
    file = tmp_path / "choice.json"
    autotune.write(file, "old")
    autotune.write(file, "new")
    assert file.read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["choice.json"]


def test_the_processor_has_a_name() -> None:
    assert len(autotune.processor().split()) >= 2
    assert autotune.processor() == autotune.processor()
