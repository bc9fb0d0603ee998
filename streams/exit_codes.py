"""The exit codes that a shell, a supervisor or a container can act on."""

from __future__ import annotations

#: The command line, a setting or something it depends on (a file, a broker) must be fixed first.
USER_ERROR = 2
#: Ctrl-C, as shells count it: 128 + SIGINT.
INTERRUPTED = 130
#: `earlybell status`: something that runs is not healthy; nothing is wrong, but a role does not run (as in LSB).
UNHEALTHY, NOT_RUNNING = 1, 3
