"""OTLP to products that have their own ways to say who asks and where it belongs.

Options come first, then the variables of the environment that the product's own SDK reads. Langfuse and
LangSmith were not tried against the real services, only what is sent to them. Options that are not described
are those of `otlp`.
"""

import base64
import os
from collections.abc import Mapping
from typing import Any, Final

from millstream.deliver.endpoint import without_slash
from millstream.deliver.options import collected, raise_all
from millstream.deliver.otlp import Compression, Protocol, Seconds
from millstream.deliver.otlp_sender import OtlpSender
from millstream.deliver.otlp_target import TRACES_PATH, target

_PHOENIX_URL: Final = "http://localhost:6006"
_LANGFUSE_URL: Final = "https://cloud.langfuse.com"
_LANGFUSE_PATH: Final = "/api/public/otel"
_LANGSMITH_URL: Final = "https://api.smith.langchain.com"
_LANGSMITH_PATH: Final = "/otel"
_MLFLOW_URL: Final = "http://localhost:5000"


def phoenix(
    *,
    endpoint: str | None = None,
    project: str | None = None,
    api_key: str | None = None,
    protocol: Protocol = "http/protobuf",
    headers: Mapping[str, str] | None = None,
    compression: Compression = "gzip",
    timeout: Seconds = 30.0,
    tls: Mapping[str, Any] | None = None,
    resource_attributes: Mapping[str, Any] | None = None,
) -> OtlpSender:
    """A sink for Arize Phoenix.

    `endpoint`, else PHOENIX_COLLECTOR_ENDPOINT, else http://localhost:6006. `project`, where traces are
    shown, else PHOENIX_PROJECT or PHOENIX_PROJECT_NAME, else Phoenix's own `default`. `api_key`, else
    PHOENIX_API_KEY, where Phoenix has users.

    Raises:
        ConfigError: an option is wrong.
    """
    project = project or _environment("PHOENIX_PROJECT", "PHOENIX_PROJECT_NAME")
    api_key = api_key or _environment("PHOENIX_API_KEY")
    return OtlpSender(
        target(
            endpoint or _environment("PHOENIX_COLLECTOR_ENDPOINT") or _PHOENIX_URL,
            protocol=protocol,
            headers=_with(headers, authorization=api_key and f"Bearer {api_key}"),
            compression=compression,
            timeout_s=timeout,
            tls=tls,
            name="Phoenix",
            example=_PHOENIX_URL,
            who="`api_key`",
        ),
        {"openinference.project.name": project, **(resource_attributes or {})},
    )


def langfuse(
    *,
    endpoint: str | None = None,
    public_key: str | None = None,
    secret_key: str | None = None,
    headers: Mapping[str, str] | None = None,
    compression: Compression = "gzip",
    timeout: Seconds = 30.0,
    tls: Mapping[str, Any] | None = None,
    resource_attributes: Mapping[str, Any] | None = None,
) -> OtlpSender:
    """A sink for Langfuse.

    `endpoint`, else LANGFUSE_BASE_URL or LANGFUSE_HOST, else its cloud in the EU. `public_key`, else
    LANGFUSE_PUBLIC_KEY. `secret_key`, else LANGFUSE_SECRET_KEY. LANGFUSE_TRACING_ENVIRONMENT and
    LANGFUSE_RELEASE are honoured.

    Raises:
        ConfigError: a key is missing, or an option is wrong.
    """
    public_key = public_key or _environment("LANGFUSE_PUBLIC_KEY")
    secret_key = secret_key or _environment("LANGFUSE_SECRET_KEY")
    problems = [
        f"{name} is missing: give it, or set LANGFUSE_{name.upper()}"
        for name, value in (("public_key", public_key), ("secret_key", secret_key))
        if not value
    ]
    pair = base64.b64encode(f"{public_key}:{secret_key}".encode()).decode()
    url = endpoint or _environment("LANGFUSE_BASE_URL", "LANGFUSE_HOST") or _LANGFUSE_URL
    environment = {
        "langfuse.environment": _environment("LANGFUSE_TRACING_ENVIRONMENT"),
        "langfuse.release": _environment("LANGFUSE_RELEASE"),
    }
    with collected(problems):
        receiver = target(
            _below(url, _LANGFUSE_PATH),
            protocol="http/protobuf",
            headers=_with(
                headers,
                authorization=f"Basic {pair}",
                **{"x-langfuse-public-key": public_key, "x-langfuse-ingestion-version": "4"},
            ),
            compression=compression,
            timeout_s=timeout,
            tls=tls,
            name="Langfuse",
            who="`public_key` and `secret_key`",
            example=_LANGFUSE_URL,
        )
    raise_all(problems)
    return OtlpSender(receiver, {**environment, **(resource_attributes or {})})


def langsmith(
    *,
    endpoint: str | None = None,
    api_key: str | None = None,
    project: str | None = None,
    workspace_id: str | None = None,
    headers: Mapping[str, str] | None = None,
    compression: Compression = "gzip",
    timeout: Seconds = 30.0,
    tls: Mapping[str, Any] | None = None,
    resource_attributes: Mapping[str, Any] | None = None,
) -> OtlpSender:
    """A sink for LangSmith.

    `endpoint` of its API, else LANGSMITH_ENDPOINT, else its cloud in the US. `api_key`, else
    LANGSMITH_API_KEY. `project`, else LANGSMITH_PROJECT, else LangSmith's own `default`. `workspace_id`, else
    LANGSMITH_WORKSPACE_ID, with a key for several workspaces. LANGCHAIN_ will do for LANGSMITH_.

    Raises:
        ConfigError: the key is missing, or an option is wrong.
    """
    api_key = api_key or _of_langsmith("API_KEY")
    problems = [] if api_key else ["api_key is missing: give it, or set LANGSMITH_API_KEY"]
    with collected(problems):
        receiver = target(
            _below(endpoint or _of_langsmith("ENDPOINT") or _LANGSMITH_URL, _LANGSMITH_PATH),
            protocol="http/protobuf",
            headers=_with(
                headers,
                **{
                    "x-api-key": api_key,
                    "langsmith-project": project or _of_langsmith("PROJECT"),
                    "x-tenant-id": workspace_id or _of_langsmith("WORKSPACE_ID"),
                },
            ),
            compression=compression,
            timeout_s=timeout,
            tls=tls,
            name="LangSmith",
            who="`api_key`",
            example=_LANGSMITH_URL,
        )
    raise_all(problems)
    return OtlpSender(receiver, resource_attributes)


def mlflow(
    *,
    endpoint: str | None = None,
    experiment_id: str | int | None = None,
    username: str | None = None,
    password: str | None = None,
    token: str | None = None,
    headers: Mapping[str, str] | None = None,
    compression: Compression = "gzip",
    timeout: Seconds = 30.0,
    tls: Mapping[str, Any] | None = None,
    resource_attributes: Mapping[str, Any] | None = None,
) -> OtlpSender:
    """A sink for MLflow's tracking server.

    `endpoint`, else MLFLOW_TRACKING_URI, else http://localhost:5000. `experiment_id`, where traces belong,
    else MLFLOW_EXPERIMENT_ID, else 0, MLflow's own `Default`. `username` and `password`, or `token`, else
    MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN.

    Raises:
        ConfigError: a user's name is given without a password, an experiment's id is no number, or an
            option is wrong.
    """
    username = username or _environment("MLFLOW_TRACKING_USERNAME")
    password = password or _environment("MLFLOW_TRACKING_PASSWORD")
    token = token or _environment("MLFLOW_TRACKING_TOKEN")
    problems: list[str] = []
    authorization = None
    if username and password:
        authorization = f"Basic {base64.b64encode(f'{username}:{password}'.encode()).decode()}"
    elif token:
        authorization = f"Bearer {token}"
    elif username:
        problems.append("username is given without password: give it, or set MLFLOW_TRACKING_PASSWORD")
    experiment = _environment("MLFLOW_EXPERIMENT_ID") or "0" if experiment_id is None else str(experiment_id)
    if not (experiment.isascii() and experiment.isdecimal()):
        given = "MLFLOW_EXPERIMENT_ID" if experiment_id is None else "experiment_id"
        problems.append(
            f"{given}: {experiment!r} is no id of an experiment, which is a number; MLflow shows it on the"
            " experiment's page and in its address"
        )
    with collected(problems):
        receiver = target(
            endpoint or _environment("MLFLOW_TRACKING_URI") or _MLFLOW_URL,
            protocol="http/protobuf",
            headers=_with(headers, authorization=authorization, **{"x-mlflow-experiment-id": experiment}),
            compression=compression,
            timeout_s=timeout,
            tls=tls,
            name="MLflow",
            who="`username` and `password`, or `token`",
            example=_MLFLOW_URL,
        )
    raise_all(problems)
    return OtlpSender(receiver, resource_attributes)


def _environment(*names: str) -> str | None:
    return next((value for name in names if (value := os.environ.get(name, "").strip())), None)


def _of_langsmith(name: str) -> str | None:
    return _environment(f"LANGSMITH_{name}", f"LANGCHAIN_{name}")


def _with(headers: Mapping[str, str] | None, **more: str | None) -> dict[str, str]:
    """Headers of the product, and those of the user, which come before them."""
    given = dict(headers or {})
    names = {name.lower() for name in given}
    return {**given, **{name: value for name, value in more.items() if value and name not in names}}


def _below(url: str, path: str) -> str:
    """The URL that ends with the product's path for OTLP, whether it was written down to there or not."""
    return without_slash(url).removesuffix(TRACES_PATH).removesuffix(path) + path
