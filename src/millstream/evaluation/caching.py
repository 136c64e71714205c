"""`eval.general.cache`: the model calls of a workflow and its judges are kept and given again."""

from collections.abc import Iterator
from contextlib import contextmanager

from millstream.evaluation.config import CacheConfig
from millstream.workflow.call_cache import CallCache, caching


@contextmanager
def cached_calls(config: CacheConfig) -> Iterator[None]:
    """Inside the block, model calls are cached as the configuration says.

    Raises:
        StorageError: the file cannot be used.
    """
    if not config.enable:
        yield
        return
    with CallCache(config.path) as cache, caching(cache):
        yield
