"""``make bench``: run the benchmarks one after the other, print a table of each, keep the figures.

``python -m tests.benchmarks transport end_to_end`` runs these two. Each benchmark is a module with a function
``measure(servers) -> dict`` (and ``NEEDS_SERVERS = False`` if it needs none); what it compares, it compares within one
run. One that lacks something says so by ``missing() -> str | None`` and is left out. Results land in
``results/NAME.json``, and the ratios of all of them under plain names in ``results/latest.json``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console
from rich.table import Table

from earlybell.deploy.local import stack
from earlybell.streams import logs
from tests.benchmarks.machine import describe

RESULTS = Path(__file__).parent / "results"
BENCHMARKS = ("engine", "engine_gpu", "long_texts", "transport", "end_to_end")


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, []], help=f"Default: all of {', '.join(BENCHMARKS)}.")
    names = parser.parse_args().names or BENCHMARKS
    logs.silence()
    modules = {name: importlib.import_module(f"tests.benchmarks.{name}") for name in names}
    for name, module in list(modules.items()):
        lacks = module.missing() if hasattr(module, "missing") else None
        if lacks:
            print(f"{name} left out: {lacks}", file=sys.stderr)
            del modules[name]
    # The servers would take their share of the cores from those that do without them.
    alone = {name: module for name, module in modules.items() if not getattr(module, "NEEDS_SERVERS", True)}
    run(alone, None)
    if len(alone) < len(modules):
        with stack.running() as servers:
            run({name: module for name, module in modules.items() if name not in alone}, servers)
    return 0


def run(modules: dict[str, ModuleType], servers: stack.Stack | None) -> None:
    """Measure, keep and show one after the other."""
    for name, module in modules.items():
        print(f"{name} ...", file=sys.stderr)
        found = module.measure(servers)
        keep(name, found)
        show(name, found)


def keep(name: str, found: dict[str, Any]) -> None:
    """Write the figures down, with the machine that they are of."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps({"machine": describe(), **found}, indent=2) + "\n")
    latest = RESULTS / "latest.json"
    ratios = json.loads(latest.read_text()) if latest.exists() else {}
    latest.write_text(json.dumps({**ratios, **found.get("ratios", {})}, indent=2, sort_keys=True) + "\n")


def show(name: str, found: dict[str, Any]) -> None:
    """Print the figures as a table."""
    table = Table(title=name, show_header=False)
    for part, figures in found.items():
        for what, figure in (figures if isinstance(figures, dict) else {"": figures}).items():
            table.add_row(f"{part} {what}".strip(), f"{figure:,.3f}" if isinstance(figure, float) else str(figure))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
