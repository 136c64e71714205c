"""What a test's own recording has kept in memory; what other tests' frameworks keep is not its business."""

import gc

from millstream.record import recorder
from millstream.record.live import LiveSpan


def living_spans() -> list[LiveSpan]:
    """The spans of the recording in use that have not been freed."""
    active = recorder.get()
    return [each for each in gc.get_objects() if type(each) is LiveSpan and each.recorder is active]
