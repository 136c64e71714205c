"""Sending a batch to a sink that may be anybody's, and whether it keeps to what `Sink` says."""

import threading
from collections.abc import Iterable, Sequence

from millstream.deliver.sink import Rejected, Result, Retry, Sink, Skipped
from millstream.errors import RefusedError, UnreachableError
from millstream.span import Span


def send(sink: Sink, spans: Sequence[Span]) -> list[Result]:
    """One result a span.

    Raises:
        UnreachableError: the sink took nothing now.
        RefusedError: it will not before a person mends something.
        Exception: whatever else it raises: perhaps a span that it cannot do anything with.
    """
    try:
        answer = sink.send(spans)
        results = list(answer) if isinstance(answer, Iterable) else []  # a generator works only now
    except (UnreachableError, RefusedError):
        raise
    except OSError as error:  # as clients of networks raise it
        raise UnreachableError(f"{type(sink).__name__}: {type(error).__name__}: {error}") from error
    except RuntimeError as error:
        if "shutdown" in str(error):  # pools of threads take nothing more when the program ends
            raise UnreachableError(f"{type(sink).__name__}: {error}") from error
        raise
    except Exception:
        raise
    except BaseException as error:  # SystemExit, asyncio's CancelledError: they are not meant for us
        if is_interrupt(error):
            raise
        raise UnreachableError(f"{type(sink).__name__} raises {type(error).__name__}: {error}") from error
    if len(results) != len(spans) or not all(
        isinstance(one, Retry | Rejected | Skipped | None) for one in results
    ):
        raise RefusedError(
            f"send() of {type(sink).__name__} must give one result a span (None, Retry, Rejected or Skipped);"
            f" for {len(spans)} it gave {type(answer).__name__} {str(answer)[:80]!r}: mend the sink"
        )
    return results


def is_interrupt(error: BaseException) -> bool:
    """Whether it is a person's Ctrl-C, which Python raises in the main thread only."""
    return isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()
