"""Every form of the kernels that runs here, in turn, beside BERT-base held to the same instructions.

Each form is measured in a process of its own, since libraries read their limits once. ``python -m
tests.benchmarks.forms`` measures the one that ``EARLYBELL_ISA`` names and prints its figures as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from earlybell.inference.engine import open_engine
from earlybell.inference.kernels import library
from tests.benchmarks import engine_clock
from tests.benchmarks.engine import limit, side_by_side
from tests.benchmarks.engine_peers import Peer, peers
from tests.benchmarks.engine_texts import collect

NEEDS_SERVERS = False
#: What holds torch's own kernels, oneDNN and MKL to the instructions of a form. ONNX Runtime cannot be held.
VARIABLES = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
LIMITS = {
    "avx512_vnni": ("avx512", "AVX512_CORE_VNNI", "AVX512_E1"),
    "avx512": ("avx512", "AVX512_CORE", "AVX512"),
    "avx_vnni": ("avx2", "AVX2_VNNI", "AVX2"),
    "avx2": ("avx2", "AVX2", "AVX2"),
    "portable": ("default", "SSE41", "SSE4_2"),
}
PEERS = ("bert_base_batch1", "bert_base_batch32_float32", "bert_base_batch32_bfloat16", "bert_base_int8")
FULL_DEPTH = "earlybell_full_depth"


def measure(servers: object = None) -> dict[str, Any]:
    """Return, by form: texts/s beside its peers', the share of its own peak, and the ratios."""
    results: dict[str, Any] = {"clock": engine_clock.CLOCK}
    for form in library.forms():
        limits = dict(zip(VARIABLES, LIMITS.get(form, ()), strict=False))
        environment = {**os.environ, **limits, library.VARIABLE: form, "EARLYBELL_BENCH_CLOCK": engine_clock.CLOCK}
        command = [sys.executable, "-m", "tests.benchmarks.forms"]
        process = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
        results[form] = json.loads(process.stdout.splitlines()[-1])
    ratios = {name: value for name, value in results[library.forms()[0]].items() if name.startswith("vs_")}
    results["ratios"] = {f"fastest_form_{name}": value for name, value in ratios.items()}
    return results


def measure_chosen() -> dict[str, Any]:
    """Measure the form that is chosen in this process, on the labelled texts."""
    engine_clock.set_threads()
    openers = peers()
    opened = {name: openers[name]() for name in (*PEERS, "earlybell") if name in openers}
    full_depth = open_engine("cpu", dial=0.0, threads=engine_clock.THREADS)
    opened[FULL_DEPTH] = Peer(FULL_DEPTH, full_depth.score, 600)
    corpus = next(iter(collect().values()))
    table = side_by_side(opened, corpus)
    speed = {name: row["texts_per_second"] for name, row in table.items()}
    ours, at_full_depth = (limit(corpus, speed[name], dial) for name, dial in (("earlybell", None), (FULL_DEPTH, 0.0)))
    return {
        **{f"{name}_texts_per_second": value for name, value in speed.items()},
        "accuracy": table["earlybell"].get("accuracy"),
        "peak_operations_per_second": ours["peak_operations_per_second"],
        "share_of_peak": ours["reached_share"],
        "share_of_peak_at_full_depth": at_full_depth["reached_share"],
        "vs_bert_base_batch1": speed["earlybell"] / speed["bert_base_batch1"],
        "vs_bert_base_batch32_best": speed["earlybell"]
        / max(value for name, value in speed.items() if name.startswith("bert_base_batch32")),
        "vs_bert_base_int8": speed["earlybell"] / speed["bert_base_int8"],
    }


if __name__ == "__main__":
    print(json.dumps(measure_chosen()))
