"""Reading on in a segment while its process is at work."""

import fcntl
import os

from millstream.store.following import Lines


def test_a_segment_that_was_only_just_made_is_being_written(tmp_path):
    """Its process takes hold of it a moment after it has made it."""
    path = tmp_path / "segment.jsonl"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    lines = Lines(path)
    assert lines.is_written()
    assert lines.take(live=True) == []
    fcntl.flock(fd, fcntl.LOCK_EX)
    os.write(fd, b'{"a":1}\n{"b"')
    assert lines.is_written()
    assert lines.take(live=True) == [(0, b'{"a":1}')]
    os.close(fd)
    assert not lines.is_written()
    lines.close()


def test_one_that_nobody_took_hold_of_is_not_waited_for_for_ever(tmp_path):
    path = tmp_path / "segment.jsonl"
    path.touch()
    lines = Lines(path)
    os.utime(path, (0, 0))
    assert not lines.is_written()
    lines.close()
