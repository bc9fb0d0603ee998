"""A short soak, each night (``python -m tests.faults.soak`` runs longer ones), and how the soak itself fails."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest

from tests.faults import soak as soaking
from tests.faults.injection import Fault, Faults
from tests.faults.soak import Injection, soak
from tests.faults.witness import Witness


@pytest.mark.nightly
@pytest.mark.timeout(3600)
async def test_a_soak_loses_doubles_and_falsifies_nothing(tmp_path: Path) -> None:
    result = await soak(seed=13, faults=20, log=tmp_path / "roles.log")
    assert result.revisions
    assert result.broken
    assert result.account, str(result.account)


class Failing:
    """Faults that cannot be completed."""

    def __init__(self) -> None:
        self.healed = 0

    def weights(self) -> Mapping[Fault, int]:
        return {self.fail: 1}

    async def fail(self, _: random.Random) -> None:
        raise RuntimeError("the broker does not start")

    async def heal(self) -> None:
        self.healed += 1


async def test_a_fault_that_fails_is_reported_and_healed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(soaking, "RAPID_PAUSE_S", (0.0, 0.0))
    faults = Failing()
    injection = Injection(cast(Faults, faults), 1, Witness({}), rapid=True)
    await injection.run(3, deadline=float("inf"))
    assert (faults.healed, injection.failures, injection.drawn.total()) == (3, 3, 0)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert ["does not start" in line["error"] for line in lines if "error" in line] == [True] * 3


async def test_each_kind_comes_as_often_as_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soaking, "SEEN_S", 0.0)
    monkeypatch.setattr(soaking, "CALM_S", 0.0)

    async def rare(_: random.Random) -> None: ...

    async def frequent(_: random.Random) -> None: ...

    faults = Failing()
    monkeypatch.setattr(faults, "weights", lambda: {frequent: 1000, rare: 1})
    injection = Injection(cast(Faults, faults), 1, Witness({}), rapid=False, each=True)
    await injection.run(2, deadline=float("inf"))
    assert injection.drawn == {"frequent": 2, "rare": 2}


async def test_no_fault_begins_after_the_deadline(capsys: pytest.CaptureFixture[str]) -> None:
    faults = Failing()
    injection = Injection(cast(Faults, faults), 1, Witness({}), rapid=True)
    await injection.run(3, deadline=0.0)
    assert faults.healed == 0
    assert "no time was left" in capsys.readouterr().out
