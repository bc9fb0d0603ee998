"""Compile the kernels while the package is built: into the wheel, or, if it is editable, into the checkout."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KERNELS = "earlybell/inference/kernels"


class KernelsBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the compiled library, and the tag of the systems that it runs on.

    Without a C compiler the wheel has no library and suits every system; its engine computes with torch alone.
    """

    _directory: tempfile.TemporaryDirectory[str] | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, before hatch collects the files."""
        build = _load_build(Path(self.root) / KERNELS)
        library: Path = build.LIBRARY
        if version != "editable":
            self._directory = tempfile.TemporaryDirectory()
            library = Path(self._directory.name) / library.name
        try:
            self.app.display_info(build.compile_library(library))
        except build.CompilerMissing as error:
            self.app.display_warning(f"{error}; the engine will compute with torch alone, which is slower")
            return
        if version != "editable":
            build_data["pure_python"] = False
            build_data["tag"] = build.wheel_tag(library)
            build_data["force_include"][str(library)] = f"{KERNELS}/{library.name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Delete the library's temporary copy."""
        if self._directory is not None:
            self._directory.cleanup()


def _load_build(kernels: Path) -> ModuleType:
    """Return `build.py` without its package, whose dependencies are not installed yet."""
    spec = importlib.util.spec_from_file_location("earlybell_kernels_build", kernels / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
