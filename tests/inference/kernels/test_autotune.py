from __future__ import annotations

from earlybell.inference.kernels import autotune


def test_the_processor_has_a_name() -> None:
    assert len(autotune.processor().split()) >= 2
    assert autotune.processor() == autotune.processor()
