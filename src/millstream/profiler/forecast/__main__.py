"""Makes the forecast for `beside.Beside`: what to learn from comes in, the finding goes out."""

import contextlib
import sys
from importlib import import_module

import msgspec

from millstream.profiler.forecast.finding import learned
from millstream.profiler.forecast.training import decoded

if __name__ == "__main__":
    sys.modules["pandas"] = None  # type: ignore[assignment]  # scikit-learn would load it, for nothing
    with contextlib.suppress(ImportError):  # the finding says so
        import_module("sklearn.ensemble")  # while the other process reads
    del sys.modules["pandas"]
    told = sys.stdin.buffer.read()
    if told:
        sys.stdout.buffer.write(msgspec.json.encode(learned(decoded(told))))
