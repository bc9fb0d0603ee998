"""The tests of delivery are tested: with a promise broken on purpose, they must fail."""

from __future__ import annotations

import types
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from earlybell.streams import transport
from tests.faults.mutations import MUTATIONS
from tests.faults.soak import soak
from tests.streams import test_delivery


def mutant(name: str) -> types.ModuleType:
    """Return the module that a mutation changes, as a copy with the change."""
    mutation = MUTATIONS[name]
    module = types.ModuleType("earlybell." + mutation.file.removesuffix(".py").replace("/", "."))
    exec(compile(mutation.source(), mutation.file, "exec"), vars(module))
    return module


@pytest.mark.parametrize("name", [name for name, mutation in MUTATIONS.items() if mutation.file])
def test_the_model_of_kafka_finds_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = mutant(name)
    for place, attribute in ((transport, "OffsetBook"), (test_delivery, "Windows")):
        if hasattr(module, attribute):
            monkeypatch.setattr(place, attribute, getattr(module, attribute))
    # Found is enough: the shortest example would take minutes.
    sought = settings(test_delivery.TestDelivery.settings, phases=[Phase.generate], report_multiple_bugs=False)
    with pytest.raises(AssertionError, match=r"not safe|were lost|does not exist"):
        run_state_machine_as_test(test_delivery.Delivery, settings=sought)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", MUTATIONS)
async def test_the_soak_finds_it(name: str, tmp_path: Path) -> None:
    mutation = MUTATIONS[name]
    result = await soak(seed=31, faults=30, log=tmp_path / "roles.log", rapid=True, mutation=mutation)
    assert getattr(result.account, mutation.finding), str(result.account)
