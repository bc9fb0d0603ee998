"""Keep a GPU from waiting for Python: copies through pinned memory, and steps that are launched as one graph.

It knows CUDA streams, graphs and memory; nothing of models, texts or strategies. On a CPU a step is simply called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog
import torch
from numpy.typing import NDArray
from torch import Tensor

log = structlog.get_logger(__name__)

Step = Callable[[], None]

#: Runs before a capture: libraries choose kernels and allocate their workspaces, and neither can be captured.
WARM_UPS = 3


def staged(values: NDArray[Any], device: torch.device) -> Tensor:
    """Return the values on the device; the copy is queued on the current stream without waiting.

    torch's allocator hands pinned memory out again only when the copy is complete.
    """
    tensor = torch.from_numpy(values)
    if device.type != "cuda":
        return tensor
    with torch.cuda.device(device):  # pinning allocates on the current device, whichever that is
        return tensor.pin_memory().to(device, non_blocking=True)


def fetched(values: Tensor) -> NDArray[Any]:
    """Return the device's values on the host, after everything queued before has run: the one place that waits."""
    if values.device.type != "cuda":
        return values.clone().numpy()
    with torch.cuda.device(values.device):
        pinned = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        pinned.copy_(values, non_blocking=True)
        torch.cuda.current_stream().synchronize()
    array: NDArray[Any] = pinned.numpy()
    return array


class Recorder:
    """Turns steps into CUDA graphs of one device, which share their memory.

    A step takes no arguments and returns nothing: it reads and writes tensors that stay in place. What it allocates on
    the way lies in the shared pool and is overwritten when another graph runs, so no two may run at once.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._captures = device.type == "cuda"
        if self._captures:
            # A stream of our own: torch's default for captures belongs to the device that was current at its first use.
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._pool = torch.cuda.graph_pool_handle()

    def recorded(self, step: Step) -> Step:
        """Return a replay of the step on CUDA; elsewhere, or if it cannot be captured, the step itself.

        Recording runs the step a few times, so its tensors must hold values that it can run on.
        """
        if not self._captures:
            return step
        # A capture that fails leaves its stream current; the outer context restores ours.
        with torch.cuda.device(self._device), torch.cuda.stream(torch.cuda.current_stream(self._device)):
            try:
                return self._captured(step)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                self._captures = False
                log.warning("cuda_graphs_unavailable", effect="kernels are launched one by one", reason=str(error))
        return step

    def _captured(self, step: Step) -> Step:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UPS):
                step()
        torch.cuda.current_stream().wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # thread_local: what another thread of the process does on its own stream must not spoil the capture.
        with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
            step()
        replay: Step = graph.replay
        return replay
