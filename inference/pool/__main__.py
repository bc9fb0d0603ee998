"""A worker process of the pool: ``python -m earlybell.inference.pool DESCRIPTOR DEVICE``. Only the pool starts it."""

import socket
import sys

from earlybell.inference.pool import worker

if __name__ == "__main__":
    worker.main(socket.socket(fileno=int(sys.argv[1])), sys.argv[2])
