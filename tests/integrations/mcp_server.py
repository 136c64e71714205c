"""An MCP server that records itself in its process: `python -m tests.integrations.mcp_server [http]`."""

import os
import socket
import sys

import anyio

import millstream
from millstream import SpanKind, start_span, track_function

if __name__ == "__main__":
    millstream.instrument()

try:
    from mcp.server.mcpserver import Context, MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
except ImportError:  # version 1
    from mcp.server.fastmcp import Context
    from mcp.server.fastmcp import FastMCP as MCPServer
    from mcp.server.fastmcp.exceptions import ToolError


@track_function
def look_up(city: str) -> str:
    return f"rain in {city}"


def make_server() -> MCPServer:  # noqa: C901  # many small tools
    server = MCPServer("weather station")

    @server.tool()
    async def weather(city: str) -> str:
        """The weather in a city."""
        with start_span("forecast", kind=SpanKind.CHAIN):
            await anyio.sleep(0.01)
            return look_up(city)

    @server.tool()
    def plain(city: str) -> str:
        """The same, not asynchronous."""
        return look_up(city)

    @server.tool()
    async def fails(secret: str) -> str:
        """Fails."""
        raise ToolError(f"the secret is {secret}")

    @server.tool()
    async def nap() -> str:
        """Takes a minute."""
        with start_span("sleeping"):
            await anyio.sleep(60)
        return "woke"

    @server.tool()
    async def dies() -> str:
        """Takes the server with it."""
        with start_span("last words"):
            os._exit(7)

    @server.tool()
    async def works(ctx: Context) -> str:
        """Reports progress."""
        for step in (1, 2):
            await ctx.report_progress(step, 2)
            await anyio.sleep(0.05)  # over HTTP an answer may overtake them
        return "done"

    @server.tool()
    async def told(ctx: Context) -> dict[str, str]:
        """What came with the request."""
        meta = ctx.request_context.meta or {}
        known = meta if isinstance(meta, dict) else meta.model_dump()
        return {key: str(value) for key, value in known.items()}

    @server.resource("shelf://{title}")
    def shelf(title: str) -> str:
        """A book."""
        look_up("the shelf")
        return f"the text of {title}"

    @server.prompt()
    def greet(name: str) -> str:
        """A prompt."""
        return f"Greet {name}."

    return server


def serve_http() -> None:
    import uvicorn

    listening = socket.create_server(("127.0.0.1", 0))
    sys.stdout.write(f"{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    app = make_server().streamable_http_app()
    uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listening])


if __name__ == "__main__":
    serve_http() if sys.argv[1:] == ["http"] else make_server().run("stdio")
