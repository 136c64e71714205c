"""Files of spans, one module a format. What a file is, its content says (`recognise`)."""

from collections.abc import Collection

from millstream.errors import InputError


def wanted(trace_ids: Collection[str] | None) -> Collection[str] | None:
    """The traces that are asked for.

    Raises:
        InputError: it is one text, not a collection of them.
    """
    if isinstance(trace_ids, str):
        raise InputError(f"trace_ids takes a collection of trace ids; for one, give [{trace_ids!r}]")
    return trace_ids
