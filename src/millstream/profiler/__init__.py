"""From spans to findings: `profile(spans)` computes, `write_profile(profile, folder)` writes the files.

The names load NumPy and SciPy when first used; without the extra [profiling] that is an error that says so.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from millstream.errors import MissingExtraError

if TYPE_CHECKING:
    from millstream.profiler.cache import CacheCurve, cache_curve
    from millstream.profiler.engine import Profile, profile, profile_journal
    from millstream.profiler.forecast.forecaster import Forecast, Forecaster, fit_forecast
    from millstream.profiler.renderers.findings import findings
    from millstream.profiler.write import write_profile

__all__ = [
    "CacheCurve",
    "Forecast",
    "Forecaster",
    "Profile",
    "cache_curve",
    "findings",
    "fit_forecast",
    "profile",
    "profile_journal",
    "write_profile",
]

_HOMES = {
    "CacheCurve": "millstream.profiler.cache",
    "Forecast": "millstream.profiler.forecast.forecaster",
    "Forecaster": "millstream.profiler.forecast.forecaster",
    "Profile": "millstream.profiler.engine",
    "cache_curve": "millstream.profiler.cache",
    "findings": "millstream.profiler.renderers.findings",
    "fit_forecast": "millstream.profiler.forecast.forecaster",
    "profile": "millstream.profiler.engine",
    "profile_journal": "millstream.profiler.engine",
    "write_profile": "millstream.profiler.write",
}
_EXTRA = frozenset({"numpy", "scipy", "PIL", "pyarrow", "jinja2", "sklearn"})


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in _EXTRA:
            raise MissingExtraError("The profiler", "profiling") from error
        raise
