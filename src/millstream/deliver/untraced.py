"""What instruments HTTP clients for OpenTelemetry does not record what delivery sends: it would never end."""

import sys
from typing import Any, Final

_KEYS: Final = ("_SUPPRESS_INSTRUMENTATION_KEY", "_SUPPRESS_HTTP_INSTRUMENTATION_KEY")


def untraced() -> bool:
    """Have this thread left out, where OpenTelemetry is used; whether that is done."""
    context: Any = sys.modules.get("opentelemetry.context")
    if context is None:
        return False
    try:
        here = context.get_current()
        for key in ("suppress_instrumentation", *(getattr(context, name, name) for name in _KEYS)):
            here = context.set_value(key, value=True, context=here)
        context.attach(here)
    except (AttributeError, TypeError):  # it is being imported at this moment
        return False
    return True
