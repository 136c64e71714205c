"""What the servers are made of: fetched and built once, from a recipe, into a folder of the checkout."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.errors import NotPrepared

CHECKOUT = Path(__file__).parents[2]
LOCKED = ".lock"
STARTED = ".started"
READY = ".ready"
FAILED = ".failed"


def root() -> Path:
    """The folder of all servers: MILLSTREAM_TEST_SERVERS, else .tmp/servers of the checkout."""
    return Path(os.environ.get("MILLSTREAM_TEST_SERVERS") or CHECKOUT / ".tmp" / "servers").absolute()


def prepare(name: str, recipe: str, make: Callable[[Path], None]) -> bool:
    """Have make fill the folder of this name, unless that was done from this recipe; True if it had to.

    A make that was broken off is called again over what it left; what came of another recipe is removed
    first. Two processes may prepare one cache: the second waits.
    """
    home = root() / name
    root().mkdir(parents=True, exist_ok=True)
    with _locked(root() / f"{name}{LOCKED}"):
        home.mkdir(exist_ok=True)
        if _text(home / READY) == recipe:
            return False
        if _text(home / STARTED) != recipe:
            shutil.rmtree(home)
            home.mkdir()
            (home / STARTED).write_text(recipe)
        try:
            make(home)
        except NotPrepared as error:
            (home / FAILED).write_text(str(error))
            raise
        (home / FAILED).unlink(missing_ok=True)
        (home / READY).write_text(recipe)
    return True


def prepared(name: str, recipe: str) -> Path:
    """The folder of this name, made from this recipe; raises NotPrepared."""
    home = root() / name
    if _text(home / READY) != recipe:
        why = _text(home / FAILED)
        reason = f" ({why})" if why else ""
        raise NotPrepared(f"{name} is not prepared{reason}. Prepare and test with: make test-servers")
    return home


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _text(path: Path) -> str | None:
    return path.read_text() if path.exists() else None
