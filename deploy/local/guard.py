"""Takes a private stack down when its owner is killed and cannot do so itself.

``python -m earlybell.deploy.local.guard HOME PID [--delete]``, started by `stack.running` as a child of the owner.
A process killed by SIGKILL cleans nothing up; the guard notices within half a second and does it instead.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

from earlybell.deploy.local import stack

POLL_SECONDS = 0.5


def main(home: Path, owner: int, *, delete: bool) -> None:
    """Wait until `owner`, our parent process, has exited; then stop the servers of `home`."""
    while os.getppid() == owner:
        time.sleep(POLL_SECONDS)
    stack.down(home)
    if delete:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), delete="--delete" in sys.argv[3:])
