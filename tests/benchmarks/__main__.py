"""``make bench``: run the benchmarks one after the other, print a table for each and save the results.

``python -m tests.benchmarks transport end_to_end`` runs only these two. A benchmark is a module with a function
``measure(servers) -> dict``; it declares ``NEEDS_SERVERS = False`` if it needs no Kafka and Postgres, and
``NEEDS_DATA = True`` if it needs the data directory. All its comparisons are made within one run. It is skipped if
there is no data, or if its ``missing() -> str | None`` names something else that this machine lacks. Results are
written to ``results/NAME.json``, and the ratios of all benchmarks, by name, to ``results/latest.json``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console
from rich.table import Table

from earlybell.deploy.local import stack
from earlybell.inference.training.data import DataError, data_directory
from earlybell.streams import logs
from tests.benchmarks.machine import describe

RESULTS = Path(__file__).parent / "results"
#: They take an hour or train models: run by name only.
ON_REQUEST = ("eleven_sets", "memory")
BENCHMARKS = (
    "engine",
    "forms",
    "overlap",
    "engine_gpu",
    "long_texts",
    "end_to_end",  # the first with servers: it warms up the broker's JIT compiler
    "transport",
    "wire_burst",
    "cold_start",
    "adaptive_dial",
)


def main() -> int:
    """Run the benchmarks named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    default = f"Default: {', '.join(BENCHMARKS)}. Only by name: {', '.join(ON_REQUEST)}."
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, *ON_REQUEST, []], help=default)
    names = parser.parse_args().names or BENCHMARKS
    logs.silence()
    modules = {name: importlib.import_module(f"tests.benchmarks.{name}") for name in names}
    for name, module in list(modules.items()):
        if reason := missing(module):
            print(f"{name} skipped: {reason}", file=sys.stderr)
            del modules[name]
    # The servers would take processor time from the benchmarks that do not need them.
    without_servers = {name: module for name, module in modules.items() if not getattr(module, "NEEDS_SERVERS", True)}
    run(without_servers, None)
    if len(without_servers) < len(modules):
        # With Java's optimising compiler and a heap of 1 GB, as Kafka's scripts: the servers are up long enough.
        # With our small heap the broker stopped for 10 to 20 ms every 2.4 s at half load.
        os.environ.setdefault("KAFKA_HEAP_OPTS", "-Xms1g -Xmx1g -Xmn640m")
        os.environ.setdefault("KAFKA_JVM_PERFORMANCE_OPTS", "-XX:+UseSerialGC")
        with stack.running() as servers:
            run({name: module for name, module in modules.items() if name not in without_servers}, servers)
    return 0


def missing(module: ModuleType) -> str | None:
    """Return why this machine cannot run a benchmark, or None."""
    if getattr(module, "NEEDS_DATA", False):
        try:
            data_directory()
        except DataError as error:
            return str(error)
    reason: str | None = module.missing() if hasattr(module, "missing") else None
    return reason


def run(modules: dict[str, ModuleType], servers: stack.Stack | None) -> None:
    """Run each benchmark, save its results and print them."""
    for name, module in modules.items():
        print(f"{name} ...", file=sys.stderr)
        results = module.measure(servers)
        save(name, results)
        show(name, results)


def save(name: str, results: dict[str, Any]) -> None:
    """Write the results to ``results/``, with a description of the machine."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps({"machine": describe(), **results}, indent=2) + "\n")
    latest = RESULTS / "latest.json"
    ratios = json.loads(latest.read_text()) if latest.exists() else {}
    latest.write_text(json.dumps({**ratios, **results.get("ratios", {})}, indent=2, sort_keys=True) + "\n")


def show(name: str, results: dict[str, Any]) -> None:
    """Print the results as a table."""
    table = Table(title=name, show_header=False)
    for section, figures in results.items():
        for label, figure in (figures if isinstance(figures, dict) else {"": figures}).items():
            table.add_row(f"{section} {label}".strip(), f"{figure:,.3f}" if isinstance(figure, float) else str(figure))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
