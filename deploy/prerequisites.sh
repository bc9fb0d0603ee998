#!/bin/sh
# Checks that the Python `make` would use is there and new enough, or says in one line what to do. Argument: its command.
set -eu

stop() {
    echo "earlybell: $*" >&2
    exit 1
}

command -v "$1" >/dev/null 2>&1 ||
    stop "$1 not found: install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3 ..."
"$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    stop "$1 is older than Python 3.11: install a newer one, or name it: make PYTHON=/path/to/python3 ..."
"$1" -c 'import ensurepip, venv' 2>/dev/null ||
    stop "$1 cannot make virtual environments: install its venv package (Debian, Ubuntu: apt install python3-venv)"
