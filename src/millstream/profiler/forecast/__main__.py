"""Makes the forecast for `beside.Beside`: what to learn from comes in, the finding goes out."""

import contextlib
import sys

import msgspec

with contextlib.suppress(ImportError):  # the finding says so
    import sklearn.ensemble  # noqa: F401  # while the other process reads
from millstream.profiler.forecast.finding import learned
from millstream.profiler.forecast.training import decoded

if __name__ == "__main__":
    told = sys.stdin.buffer.read()
    if told:
        sys.stdout.buffer.write(msgspec.json.encode(learned(decoded(told))))
