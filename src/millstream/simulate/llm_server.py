"""The stand-in model server, started without the web framework being imported before it is needed."""

from collections.abc import Callable

from millstream.errors import MissingExtraError
from millstream.simulate.rules import Rules


def serve_llm(
    rules: Rules,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    seed: int = 0,
    ready: Callable[[str], None],
    exit_with_parent: bool = False,
) -> None:
    """Answer requests in OpenAI's protocol as the rules say, until SIGTERM or SIGINT.

    Args:
        rules: what to answer; `load_rules` reads a file of them.
        host: the address to listen on.
        port: the port; 0 takes a free one.
        seed: equal seeds give equal answers, errors and times to equal requests.
        ready: called once with the base URL, when connections are accepted.
        exit_with_parent: stop also when the process that started this one is gone.

    Raises:
        ConfigError: the address cannot be listened on.
        MissingExtraError: the extra [web] is not installed.
    """
    try:
        from millstream.simulate.http_server import serve  # noqa: PLC0415  # the extra is optional
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"starlette", "uvicorn"}:
            raise
        raise MissingExtraError("The stand-in model server", "web") from error
    serve(rules, host=host, port=port, seed=seed, ready=ready, exit_with_parent=exit_with_parent)
