"""Attributes under which a copied span says what OpenTelemetry does not keep among the attributes.

The first five are those of OpenTelemetry's own exporters to systems without these fields.
"""

from typing import Final

SCOPE: Final = "otel.scope.name"
"""Every copied span has it, and no other."""
SCOPE_VERSION: Final = "otel.scope.version"
KIND: Final = "otel.span.kind"
STATUS: Final = "otel.status_code"
STATUS_DESCRIPTION: Final = "otel.status_description"
NAME: Final = "otel.span.name"
"""The name at the end, of a span that was renamed."""
TRACE_ID: Final = "otel.trace_id"
"""OpenTelemetry's trace, of a root that started in a span of ours and so belongs to ours."""
LINKS: Final = "otel.links"
