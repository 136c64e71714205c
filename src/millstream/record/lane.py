"""The compiled fast lane of a recorder, where the package was built with a C compiler.

It opens and ends the commonest spans with the same lines as `opening` and `live`, and declines all others.
"""

from typing import TYPE_CHECKING, Final

from msgspec import UNSET

from millstream import context
from millstream.record import steps
from millstream.record.blobs import LARGE
from millstream.record.lines import tail
from millstream.record.live import LiveSpan
from millstream.record.opening import scope_of
from millstream.record.serialize import to_json

if TYPE_CHECKING:
    from millstream.record.recorder import Recorder

try:
    from millstream.record import _lane
except ImportError:  # built without a compiler
    _lane = None  # type: ignore[assignment]
COMPILED: Final = _lane is not None


def lane_for(active: "Recorder") -> "_lane.Lane | None":
    """The lane of a recorder that keeps every span as it is; `None` where each has to be looked at."""
    if not COMPILED or active.processors or active.holds:
        return None
    try:
        return _lane.Lane(
            active,
            active.journal,
            LiveSpan,
            context.current,
            vars(context),
            steps.subscribers,
            scope_of,
            context.OTEL,
            LARGE,
            to_json,
            tail,
            UNSET,
        )
    except TypeError:  # a msgspec that keeps the fields of a span elsewhere, or ids ready in no list
        return None
