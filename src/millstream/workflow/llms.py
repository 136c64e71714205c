"""Models: the keys of `llms`, what they mean for a server, and models of other packages."""

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, ClassVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from millstream.deliver.plugins import load_entry_point
from millstream.errors import ConfigError, nearest
from millstream.workflow.retries import DEFAULT_BUDGET_S
from millstream.workflow.validation import ModelT, parse_model

LLM_GROUP = "millstream.llms"
NO_KEY = "not-needed"
"""What a server of the user's own is sent without a key; the protocol's header may not be empty."""


class Server(BaseModel):
    """The keys of a model that a server of the OpenAI protocol has.

    Attributes:
        base_url: up to and with `/v1`; else OPENAI_BASE_URL, else OpenAI's.
        api_key: else OPENAI_API_KEY; a server of one's own may need none.
        timeout: seconds for one call, its stream included.
        max_retries: the most repeats after a failed connection, 408, 409, 429 or 5xx, with growing waits;
            `None`: 5 (2 where nothing ever answered), and after a 429 or an answer with `Retry-After` as many
            as `max_retry_s` allows.
        max_retry_s: seconds that the failed tries of one call and the waits after them may take together.
        headers: sent with every request.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    key_variable: ClassVar[str] = "OPENAI_API_KEY"
    url_variable: ClassVar[str | None] = "OPENAI_BASE_URL"
    default_url: ClassVar[str] = "https://api.openai.com/v1"
    provider: ClassVar[str] = "openai"

    model_name: Annotated[str, Field(min_length=1)]
    base_url: str | None = None
    api_key: SecretStr | None = None
    timeout: Annotated[float, Field(gt=0)] | None = None
    max_retries: Annotated[int, Field(ge=0)] | None = None
    max_retry_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = DEFAULT_BUDGET_S
    headers: dict[str, str] | None = None


class NIMServer(Server):
    """The same of NVIDIA's hosted models, or of a NIM of one's own by `base_url`."""

    key_variable = "NVIDIA_API_KEY"
    url_variable = None
    default_url = "https://integrate.api.nvidia.com/v1"
    provider = "nim"


class OpenAIConfig(Server):
    """`_type: openai`: any server that speaks the OpenAI chat completions protocol.

    Attributes:
        max_concurrency: calls at the same time to this base_url; the others wait.
        extra_body: further keys of the request, such as those of vLLM.
    """

    temperature: Annotated[float, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    seed: int | None = None
    stop: list[str] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    reasoning_effort: str | None = None
    max_concurrency: Annotated[int, Field(ge=1)] | None = None
    streaming: bool = True
    extra_body: dict[str, Any] | None = None


class NIMConfig(NIMServer, OpenAIConfig):
    """`_type: nim`: NVIDIA's hosted models, or a NIM of one's own by `base_url`."""


PROVIDERS: Mapping[str, type[OpenAIConfig]] = {"openai": OpenAIConfig, "nim": NIMConfig}


def parse_llm(mapping: Mapping[str, Any], where: str) -> OpenAIConfig | EntryPoint:
    """Check one entry of `llms`.

    Returns:
        Its configuration, or the entry point of another package that makes the model.

    Raises:
        ConfigError: unknown `_type` or key, or a wrong value.
    """
    return parse_typed(PROVIDERS, LLM_GROUP, mapping, where)


def parse_typed(
    ours: Mapping[str, type[ModelT]], group: str, mapping: Mapping[str, Any], where: str
) -> ModelT | EntryPoint:
    """Check an entry by its `_type`: one of ours, or one that a package offers.

    Args:
        ours: the models of our types, by name.
        group: the entry points of others.
        mapping: the entry.
        where: its path, for errors.

    Raises:
        ConfigError: unknown `_type` or key, or a wrong value.
    """
    kind = mapping["_type"]
    if kind in ours:
        options = {key: value for key, value in mapping.items() if key != "_type"}
        return parse_model(ours[kind], options, where)
    others = {point.name: point for point in entry_points(group=group)}
    if kind in others:
        return others[kind]
    raise ConfigError(f"{where}: unknown _type {kind!r}{nearest(kind, [*ours, *others])}")


def model_from_entry_point(point: EntryPoint, mapping: Mapping[str, Any], where: str) -> Any:
    """The model of another package: its factory called with the keys as keywords.

    Raises:
        ConfigError: it cannot be loaded, or refuses the keys.
    """
    factory = load_entry_point(point)
    try:
        return factory(**{key: value for key, value in mapping.items() if key != "_type"})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {point.name} refuses these keys: {error}") from error


def base_url_of(config: Server, where: str, environ: Mapping[str, str]) -> str:
    """Where the server of a model is, without a slash at the end.

    Raises:
        ConfigError: it is not a web address.
    """
    from_environment = environ.get(config.url_variable) if config.url_variable else None
    base_url = (config.base_url or from_environment or config.default_url).rstrip("/")
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{where}.base_url: {base_url!r} is not an http:// or https:// address")
    return base_url


def api_key_of(config: Server, base_url: str, where: str, environ: Mapping[str, str]) -> str:
    """What the server is told.

    Raises:
        ConfigError: a hosted service was given no key; names the variable.
    """
    given = config.api_key.get_secret_value() if config.api_key is not None else None
    key = given or environ.get(config.key_variable)
    host = urlsplit(base_url).hostname
    if not key and host == urlsplit(config.default_url).hostname:
        raise ConfigError(
            f"{where}: {host} needs an API key; set the environment variable {config.key_variable}"
            " (or, for a server of your own, base_url)"
        )
    return key or NO_KEY


def tightest_limit(
    llms: Mapping[str, Mapping[str, Any]], base_url: str, environ: Mapping[str, str]
) -> int | None:
    """The smallest `max_concurrency` of the models at one base URL; `None` when none has one."""
    limits: list[int] = []
    for name, mapping in llms.items():
        try:
            config = parse_llm(mapping, name)
            if isinstance(config, OpenAIConfig) and config.max_concurrency is not None:
                limits += [config.max_concurrency] if base_url_of(config, name, environ) == base_url else []
        except ConfigError:  # said when that model is used
            continue
    return min(limits, default=None)
