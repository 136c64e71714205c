"""`mcp_client`: the tools of an MCP server as functions."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from millstream.errors import ConfigError, WorkflowError, nearest
from millstream.record import instrument
from millstream.workflow.builder import Builder
from millstream.workflow.components import FunctionBaseConfig, FunctionGroup, FunctionInfo
from millstream.workflow.registry import register_function

_OF_STDIO = ("command", "args", "env")
_OF_HTTP = ("url", "headers")
_LONGEST_DESCRIPTION = 2000


class MCPClientConfig(FunctionBaseConfig, name="mcp_client"):
    """The keys of `mcp_client`.

    Attributes:
        transport: `stdio`: a process is started; `streamable-http`: a server is there.
        command: of stdio: the program.
        args: of stdio: its arguments.
        env: of stdio: variables of its environment, beside PATH, HOME and such; the others are not passed on.
        url: of streamable-http: the address.
        headers: of streamable-http: sent with every request.
        include: tools to offer; all when `None`.
        timeout_s: seconds for one call of a tool.
        connect_timeout_s: seconds until the server must be there.
    """

    is_group = True

    transport: Literal["stdio", "streamable-http"]
    command: Annotated[str, Field(min_length=1)] | None = None
    args: list[str] = []
    env: dict[str, str] = {}
    url: str | None = None
    headers: dict[str, str] = {}
    include: Annotated[list[str], Field(min_length=1)] | None = None
    timeout_s: Annotated[float, Field(gt=0)] = 60.0
    connect_timeout_s: Annotated[float, Field(gt=0)] = 60.0

    @model_validator(mode="after")
    def _of_its_transport(self) -> Self:
        mine, others = (_OF_STDIO, _OF_HTTP) if self.transport == "stdio" else (_OF_HTTP, _OF_STDIO)
        if getattr(self, mine[0]) is None:
            raise ValueError(f"the transport {self.transport} needs {mine[0]}")
        for key in others:
            if key in self.model_fields_set:
                raise ValueError(f"the transport {self.transport} has no {key}; it has {', '.join(mine)}")
        return self

    def check(self, directory: Path, where: str) -> None:  # noqa: ARG002  # as the others
        """The address is one, and the SDK is there."""
        from millstream.workflow import mcp_connection  # noqa: F401, PLC0415  # an extra

        if self.url is not None:
            parts = urlsplit(self.url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ConfigError(f"{where}.url: {self.url!r} is not an http:// or https:// address")


@register_function(config_type=MCPClientConfig, framework_wrappers=())
async def mcp_client(config: MCPClientConfig, builder: Builder) -> AsyncGenerator[FunctionGroup, None]:
    """The tools of an MCP server: a process, or behind streamable HTTP."""
    from millstream.workflow import mcp_connection  # noqa: PLC0415  # an extra

    where = builder.building
    config.check(builder.directory, where)
    instrument("mcp")
    output = mcp_connection.ProcessOutput() if config.command is not None else None
    if config.command is not None and output is not None:
        transport = mcp_connection.over_stdio(config.command, config.args, config.env, output)
        server = mcp_connection.shown(config.command)  # its arguments may hold a secret
    else:
        transport = mcp_connection.over_http(str(config.url), config.headers, config.timeout_s)
        server = mcp_connection.shown(_without_secrets(str(config.url)))
    connection = mcp_connection.Connection(
        transport,
        where,
        server,
        config.timeout_s,
        config.connect_timeout_s,
        output,
    )
    try:
        tools = {tool.name: tool for tool in await connection.tools()}
        for name in config.include or ():
            if name not in tools:
                raise ConfigError(
                    f"{where}.include: the MCP server has no tool {name!r}{nearest(name, tools)}"
                )
        wanted = config.include or list(tools)
        yield FunctionGroup({name: _function(connection, tools[name], where) for name in wanted})
    finally:
        await connection.aclose()
        if output is not None:
            output.close()


def _function(connection: Any, tool: Any, where: str) -> FunctionInfo:
    async def call(**arguments: Any) -> Any:
        return _answer(await connection.call(tool.name, arguments), f"{where}: {tool.name}")

    schema = getattr(tool, "inputSchema", None) or getattr(tool, "input_schema", None) or {}
    return FunctionInfo(
        call,
        description=_described(tool.description or tool.name),
        input_schema={"type": "object", "properties": {}, **schema},
        recorded=False,  # the SDK's integration records the call as a TOOL span
    )


def _answer(result: Any, what: str) -> Any:
    """The text of a tool's result; where it is not all text, its parts.

    Raises:
        WorkflowError: the tool says that it failed.
    """
    from millstream.workflow.mcp_connection import shown  # noqa: PLC0415  # an extra

    texts = [part.text for part in result.content if hasattr(part, "text")]
    if getattr(result, "isError", False) or getattr(result, "is_error", False):
        raise WorkflowError(f"{what} failed: {shown(' '.join(texts)) or 'it does not say why'}")
    if len(texts) == len(result.content) > 0:
        return "\n".join(texts)
    structured = getattr(result, "structuredContent", None) or getattr(result, "structured_content", None)
    if structured is not None and not result.content:
        return structured
    return [part.model_dump(mode="json", by_alias=True, exclude_none=True) for part in result.content]


def _described(text: str) -> str:
    """What a tool says of itself, for models and people: without control characters, and short."""
    clean = "".join(sign if sign.isprintable() or sign == "\n" else " " for sign in text).strip()
    return clean if len(clean) <= _LONGEST_DESCRIPTION else clean[:_LONGEST_DESCRIPTION] + "…"


def _without_secrets(url: str) -> str:
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"
