"""What can be wrong with a server."""


class NotPrepared(Exception):  # noqa: N818 - it is no error where servers are not asked for
    """What this server is made of is not there; the message says how to get it."""


class ServerError(Exception):
    """A server did not start, or did not give what was waited for."""
