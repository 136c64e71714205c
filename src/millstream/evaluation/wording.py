"""Numbers in sentences."""


def counted(n: int, one: str, many: str | None = None) -> str:
    """`n` with its noun: `1 item`, `2 items`.

    Args:
        n: how many.
        one: what follows 1.
        many: what follows every other number; `one` with an s by default.
    """
    return f"{n} {one if n == 1 else many or one + 's'}"
