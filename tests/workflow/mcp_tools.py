"""An MCP server for tests of `mcp_client`: `python -m tests.workflow.mcp_tools [PORT]`."""

import os
import socket
import sys
import time

import anyio

import millstream
from millstream import start_span

if __name__ == "__main__":
    millstream.instrument("mcp")

try:
    from mcp.server.mcpserver import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
except ImportError:  # version 1
    from mcp.server.fastmcp import FastMCP as MCPServer
    from mcp.server.fastmcp.exceptions import ToolError


def make_server() -> MCPServer:
    server = MCPServer("adder")

    @server.tool()
    async def add(a: int, b: int) -> str:
        """Adds two numbers.\x1b[31m Red."""
        with start_span("adding"):
            return str(a + b)

    @server.tool()
    async def echo(text: str) -> str:
        """Says it again."""
        return text

    @server.tool()
    async def fails(text: str) -> str:
        """Fails."""
        raise ToolError(f"no \x1b[2J{text}" + "x" * 9000)

    @server.tool()
    async def nap() -> str:
        """Takes a minute."""
        await anyio.sleep(60)
        return "woke"

    @server.tool()
    async def hangs() -> str:
        """Holds up the whole server."""
        time.sleep(60)  # noqa: ASYNC251  # that is what it is for
        return "woke"

    @server.tool()
    async def dies() -> str:
        """Takes the server with it."""
        sys.stderr.write("\nMemoryError: the \x1b[31mwheel broke\n")
        sys.stderr.flush()
        os._exit(7)

    @server.tool()
    async def pid() -> str:
        """The process."""
        return str(os.getpid())

    return server


def serve_http(port: int) -> None:
    import uvicorn

    listening = socket.create_server(("127.0.0.1", port))
    sys.stdout.write(f"{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    uvicorn.Server(uvicorn.Config(make_server().streamable_http_app(), log_level="error")).run(
        sockets=[listening]
    )


if __name__ == "__main__":
    serve_http(int(sys.argv[1])) if sys.argv[1:] else make_server().run("stdio")
