from millstream.store.arrays import Bools, Ints

def note(
    rows: Ints,
    first: Ints,
    start: Ints,
    end: Ints,
    input_hash: Ints,
    failed: Bools,
    is_retry: Bools,
    retried: Bools,
    may_be: Bools,
    waited: Ints,
    /,
) -> None: ...
