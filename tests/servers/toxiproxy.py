"""Faults of the network between a client and a server: toxiproxy, and its proxies."""

from pathlib import Path
from typing import Any

import httpx

from tests.servers import go_servers
from tests.servers.server import HOST, Server, free_port


class Toxiproxy(Server):
    """The process that holds the proxies."""

    def __init__(self, folder: Path) -> None:
        super().__init__("toxiproxy", folder)
        self._program = go_servers.binary("toxiproxy")

    def command(self) -> list[str]:
        return [self._program, "-host", HOST, "-port", str(self.port)]

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/version", timeout=2, trust_env=False).is_success
        except httpx.TransportError:
            return False

    def proxy(self, target: Server | int) -> "Proxy":
        """A new proxy to a server or a port, without faults."""
        port = target if isinstance(target, int) else target.port
        scheme = "http" if isinstance(target, int) else target.url.partition(":")[0]
        return Proxy(self, port, scheme)

    def clear(self) -> None:
        """Take all proxies away."""
        for name in self.call("GET", "/proxies"):
            self.call("DELETE", f"/proxies/{name}")

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Its API's answer, decoded."""
        answer = httpx.request(method, f"{self.url}{path}", json=body, timeout=10, trust_env=False)
        answer.raise_for_status()
        return answer.json() if answer.content else None


class Proxy:
    """A port that leads to a server, and what goes wrong on the way."""

    def __init__(self, toxiproxy: Toxiproxy, target: int, scheme: str) -> None:
        self.port = free_port()
        self.address = f"{HOST}:{self.port}"
        self.url = f"{scheme}://{'localhost' if scheme == 'https' else HOST}:{self.port}"
        self._toxiproxy = toxiproxy
        self._path = f"/proxies/{self.port}"
        proxy = {"name": str(self.port), "listen": self.address, "upstream": f"{HOST}:{target}"}
        toxiproxy.call("POST", "/proxies", proxy)

    def latency(self, milliseconds: int, *, jitter_ms: int = 0, upstream: bool = False) -> None:
        """Delay all data."""
        self._add("latency", upstream=upstream, latency=milliseconds, jitter=jitter_ms)

    def hang(self, *, upstream: bool = False) -> None:
        """Let nothing through, and keep connections open."""
        self._add("timeout", upstream=upstream, timeout=0)

    def reset(self, *, after_ms: int = 0, upstream: bool = False) -> None:
        """Reset connections (RST)."""
        self._add("reset_peer", upstream=upstream, timeout=after_ms)

    def bandwidth(self, kilobytes_per_s: int, *, upstream: bool = False) -> None:
        """Let so much through and no more."""
        self._add("bandwidth", upstream=upstream, rate=kilobytes_per_s)

    def cut(self, after_bytes: int, *, upstream: bool = False) -> None:
        """Close each connection once so much went through."""
        self._add("limit_data", upstream=upstream, bytes=after_bytes)

    def clear(self) -> None:
        """Take all faults away."""
        for toxic in self._toxiproxy.call("GET", f"{self._path}/toxics"):
            self._toxiproxy.call("DELETE", f"{self._path}/toxics/{toxic['name']}")

    def disable(self) -> None:
        """Close all connections and refuse new ones."""
        self._toxiproxy.call("POST", self._path, {"enabled": False})

    def enable(self) -> None:
        """Take connections again."""
        self._toxiproxy.call("POST", self._path, {"enabled": True})

    def _add(self, kind: str, *, upstream: bool, **attributes: int) -> None:
        stream = "upstream" if upstream else "downstream"
        self._toxiproxy.call(
            "POST", f"{self._path}/toxics", {"type": kind, "stream": stream, "attributes": attributes}
        )
