"""Keeps a process from any address but those of this machine, and remembers which it tried."""

import socket
from typing import Any, Final

tried: Final[list[str]] = []
"""Other addresses."""

_connect: Final = socket.socket.connect
_connect_ex: Final = socket.socket.connect_ex
_getaddrinfo: Final = socket.getaddrinfo
_HERE: Final = ("127.0.0.1", "::1", "localhost", "", None)


def install() -> None:
    """Fence this process in."""
    socket.socket.connect = _fenced(_connect)  # type: ignore[method-assign]
    socket.socket.connect_ex = _fenced(_connect_ex)  # type: ignore[method-assign]
    socket.getaddrinfo = _getaddrinfo_here


def _fenced(connect: Any) -> Any:
    def connect_here(self: socket.socket, address: Any) -> Any:
        if isinstance(address, tuple):
            _see(address[0])
        return connect(self, address)

    return connect_here


def _getaddrinfo_here(host: Any, *args: Any, **kwargs: Any) -> Any:
    _see(host.decode() if isinstance(host, bytes) else host)
    return _getaddrinfo(host, *args, **kwargs)


def _see(host: str | None) -> None:
    if host not in _HERE:
        tried.append(str(host))
        raise OSError(f"this benchmark keeps to its own machine, and {host} is not on it")
