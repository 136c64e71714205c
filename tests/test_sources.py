import os
from concurrent.futures import ThreadPoolExecutor

from millstream.sources import CountingIds, RandomIds, SteppingClock


def test_random_ids_are_hex_and_differ():
    ids = RandomIds()
    made = [ids.span_id() for _ in range(10_000)]
    assert len(set(made)) == 10_000
    assert all(len(one) == 16 and int(one, 16) for one in made)
    assert len(ids.trace_id()) == 32


def test_a_seed_gives_the_same_ids():
    first, second = RandomIds(7), RandomIds(7)
    assert [first.trace_id() for _ in range(400)] == [second.trace_id() for _ in range(400)]


def test_threads_never_share_an_id():
    ids = RandomIds()
    with ThreadPoolExecutor(8) as pool:
        made = [
            one
            for part in pool.map(lambda _: [ids.span_id() for _ in range(5_000)], range(8))
            for one in part
        ]
    assert len(set(made)) == 40_000


def test_a_forked_child_has_ids_of_its_own():
    ids = RandomIds()
    ids.span_id()
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        os.write(write, ids.span_id().encode())
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(read, 16).decode() not in {ids.span_id() for _ in range(1_000)}
    os.close(read)
    os.close(write)


def test_sources_for_tests():
    ids, clock = CountingIds(), SteppingClock(start_ns=100, step_ns=10)
    assert (ids.trace_id(), ids.span_id(), ids.span_id()) == ("0" * 31 + "1", "0" * 15 + "1", "0" * 15 + "2")
    assert (clock.monotonic_ns(), clock.monotonic_ns(), clock.wall_ns()) == (0, 10, 120)
