"""nginx in front of a server: the passwords, API keys and TLS that servers from jars do not have."""

import base64
import hashlib
import json
import os
import re
import socket
from pathlib import Path
from typing import Any

from tests.servers import commands
from tests.servers.certificates import Authority
from tests.servers.server import HOST, Server, wait_until

REQUESTS = "requests.jsonl"
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")

CONFIG = """
daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 256; }}
http {{
    {temporary}
    map $http_authorization $realm {{ default "test"; {open} }}
    map $http_authorization $scheme_used {{ default ""; "~^(?<scheme_word>[^ ]+) " $scheme_word; }}
    log_format line escape=json
        '{{"method":"$request_method","path":"$request_uri","status":$status,"scheme":"$scheme_used"}}';
    access_log {folder}/{requests} line;
    server {{
        listen {host}:{port}{ssl};
        {certificate}
        client_max_body_size {max_body_bytes};
        auth_basic $realm;
        auth_basic_user_file {folder}/passwords;
        location / {{
            proxy_pass http://{host}:{target};
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_read_timeout 300s;
        }}
    }}
}}
"""


def prepare() -> bool:
    """See that it is there; it comes from the system."""
    _program()
    return False


def _program() -> str:
    return commands.tool("nginx", package="nginx")


def _htpasswd(user: str, password: str) -> str:
    salt = os.urandom(8)
    # The strongest that nginx knows on all systems, and of made-up passwords.
    digest = hashlib.sha1(password.encode() + salt, usedforsecurity=False).digest()
    return f"{user}:{{SSHA}}{base64.b64encode(digest + salt).decode()}\n"


class Guard(Server):
    """nginx before a server: without the right password or API key, where one is set, it answers 401."""

    def __init__(
        self,
        folder: Path,
        target: Server | int,
        *,
        basic: tuple[str, str] | None = None,
        api_key: str | None = None,
        authority: Authority | None = None,
        max_body_bytes: int = 0,
    ) -> None:
        super().__init__("nginx", folder)
        self._program = _program()
        self._target = target if isinstance(target, int) else target.port
        self._basic = basic
        self._api_key = api_key
        self._authority = authority
        self._max_body_bytes = max_body_bytes

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}" if self._authority else super().url

    def command(self) -> list[str]:
        (self.folder / "passwords").write_text(_htpasswd(*self._basic) if self._basic else "")
        config = self.folder / "nginx.conf"
        config.write_text(self._config())
        return [self._program, "-p", str(self.folder), "-e", "stderr", "-c", str(config)]

    def ready(self) -> bool:
        try:
            socket.create_connection((HOST, self.port), timeout=2).close()
        except OSError:
            return False
        return True

    def requests(self, count: int = 0) -> list[dict[str, Any]]:
        """What was asked of it, once that is at least count requests: it notes them after it has answered.

        Each has "method", "path", "status", and "scheme", the first word of its Authorization header.
        """
        file = self.folder / REQUESTS
        wait_until(f"{count} requests to nginx", lambda: file.read_text().count("\n") >= count, 5)
        return [json.loads(line) for line in file.read_text().splitlines()]

    def _config(self) -> str:
        if self._api_key is not None and not re.fullmatch(r"[\w+/=.-]+", self._api_key):
            raise ValueError("An API key is letters, digits and + / = . - _")
        opened = f'"ApiKey {self._api_key}" off;' if self._api_key else ""
        if not (self._basic or self._api_key):
            opened = "~.* off; '' off;"
        files = self._authority
        return CONFIG.format(
            # As root it would have its workers be someone who may not read this folder.
            user="user root;" if os.geteuid() == 0 else "",
            folder=self.folder,
            temporary=" ".join(f"{name}_temp_path {self.folder}/{name};" for name in TEMPORARY),
            open=opened,
            requests=REQUESTS,
            host=HOST,
            port=self.port,
            ssl=" ssl" if files else "",
            certificate=f"ssl_certificate {files.certificate_file}; ssl_certificate_key {files.key_file};"
            if files
            else "",
            max_body_bytes=self._max_body_bytes,
            target=self._target,
        )
