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
    """A candidate that says how often it ran."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.runs = seconds, 0

    def __call__(self) -> None:
        self.runs += 1
        time.sleep(self.seconds)


def test_the_faster_one_is_chosen_and_never_measured_again() -> None:
    slow, fast = Counted(0.03), Counted(0.0)
    assert autotune.fastest({"slow": slow, "fast": fast}, {"shape": 1}, "slow") == "fast"
    slow.runs = fast.runs = 0
    slow.seconds, fast.seconds = 0.0, 0.03  # the machine is busy otherwise now
    assert autotune.fastest({"slow": slow, "fast": fast}, {"shape": 1}, "slow") == "fast"
    assert (slow.runs, fast.runs) == (0, 0)


def test_another_question_and_other_candidates_are_another_choice() -> None:
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
def test_a_damaged_file_is_measured_anew(own_cache: Path, damage: str) -> None:
    slow, fast = Counted(0.03), Counted(0.0)
    candidates = {"slow": slow, "fast": fast}
    autotune.fastest(candidates, {}, "slow")
    (file,) = own_cache.glob("*.json")
    file.write_text(damage)
    assert autotune.fastest(candidates, {}, "slow") == "fast"
    assert json.loads(file.read_text())["choice"] == "fast"


def test_where_nothing_can_be_kept_the_choice_is_fixed_and_nothing_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a directory")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    slow, fast = Counted(0.0), Counted(0.0)
    assert autotune.fastest({"slow": slow, "fast": fast}, {}, "slow") == "slow"
    assert (slow.runs, fast.runs) == (0, 0)


def test_a_read_only_cache_still_answers_what_it_remembers(own_cache: Path) -> None:
    autotune.fastest({"slow": Counted(0.03), "fast": Counted(0.0)}, {}, "slow")
    own_cache.chmod(0o500)
    try:
        assert autotune.fastest({"slow": Counted(0.0), "fast": Counted(0.03)}, {}, "slow") == "fast"
    finally:
        own_cache.chmod(0o700)


def choose(answers: multiprocessing.SimpleQueue[str]) -> None:
    # As good as equal: measured in each process, they would be chosen by chance.
    answers.put(autotune.fastest({"one": Counted(0.001), "other": Counted(0.001)}, {}, "one"))


def test_processes_that_start_together_choose_alike() -> None:
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    processes = [context.Process(target=choose, args=(answers,)) for _ in range(8)]
    for process in processes:
        process.start()
    chosen = {answers.get() for _ in processes}
    for process in processes:
        process.join()
    assert len(chosen) == 1


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    file = tmp_path / "choice.json"
    autotune.write(file, "old")
    autotune.write(file, "new")
    assert file.read_text() == "new"
    assert [left.name for left in tmp_path.iterdir()] == ["choice.json"]


def test_the_processor_has_a_name() -> None:
    assert len(autotune.processor().split()) >= 2
    assert autotune.processor() == autotune.processor()
