"""What the garbage collector looks through while items are worked on."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def heap_at_rest() -> Iterator[None]:
    """Within the block the collector passes over what was there when it began.

    Clients of models and what evaluates are some hundred thousand objects that stay, and that the collector
    would look through again and again. A heap that somebody else has put to rest is left so.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
