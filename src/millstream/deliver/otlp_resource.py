"""What makes the spans, as OpenTelemetry describes it: the service, its environment, this package."""

import logging
import os
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Final
from urllib.parse import unquote

VERSION: Final = version("millstream")
SERVICE_NAME: Final = "service.name"
_LOGGER: Final = logging.getLogger("millstream")


def described(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    """The attributes of a resource.

    Those of `OTEL_RESOURCE_ATTRIBUTES` come after `OTEL_SERVICE_NAME`, and both after `attributes`.
    """
    told: dict[str, Any] = {
        SERVICE_NAME: "unknown_service",
        "telemetry.sdk.name": "millstream",
        "telemetry.sdk.language": "python",
        "telemetry.sdk.version": VERSION,
        **_of_environment(),
    }
    if name := os.environ.get("OTEL_SERVICE_NAME"):
        told[SERVICE_NAME] = name
    told.update({key: value for key, value in (attributes or {}).items() if value is not None})
    return told


def _of_environment() -> dict[str, str]:
    """`OTEL_RESOURCE_ATTRIBUTES`: `key=value,key=value`, values percent-encoded."""
    told: dict[str, str] = {}
    for pair in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        key, equals, value = pair.partition("=")
        if equals and key.strip():
            told[key.strip()] = unquote(value.strip())
        elif pair.strip():
            _LOGGER.warning(
                "millstream: OTEL_RESOURCE_ATTRIBUTES holds %r, which is no key=value; it is left out", pair
            )
    return told
