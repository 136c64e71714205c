"""Fetch and build the servers that tests need: python -m tests.servers.prepare [NAME…]."""

import sys
import time
from collections.abc import Callable, Mapping
from functools import partial

from tests.servers import cache, go_servers, nginx, python_servers, search
from tests.servers.errors import NotPrepared

SERVERS: Mapping[str, Callable[[], bool]] = {
    **{kind: partial(search.prepare, kind) for kind in search.KINDS},
    "go": go_servers.prepare,
    "python": python_servers.prepare,
    "nginx": nginx.prepare,
}


def main(names: list[str]) -> int:
    """Prepare the servers of these names, all by default; the number that could not be."""
    failed = 0
    for name in names or SERVERS:
        begun = time.monotonic()
        try:
            made = SERVERS[name]()
        except NotPrepared as error:
            failed += 1
            sys.stdout.write(f"{name}: {error}\n")
        else:
            sys.stdout.write(
                f"{name}: made in {time.monotonic() - begun:.0f} s\n" if made else f"{name}: there\n"
            )
        sys.stdout.flush()
    sys.stdout.write(f"{cache.root()}\n")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) and 1)
