"""Durations and other numbers as people read them."""


def duration(value_s: float | None) -> str:
    """Three digits with the unit that fits, `182 ms`; `-` when it is unknown.

    Args:
        value_s: seconds.
    """
    if value_s is None:
        return "-"
    if value_s == 0:
        return "0 s"
    number, unit = value_s * 1e6, "us"
    for larger in ("ms", "s"):
        if round(number) >= 1000:  # noqa: PLR2004  # three digits
            number, unit = number / 1000, larger
    digits = 2 if number < 9.995 else 1 if number < 99.95 else 0  # noqa: PLR2004
    return f"{number:,.{digits}f} {unit}"


def number(value: float) -> str:
    """Three digits, or as many as it has before the point: `0.0123`, `12.3`, `1,840`."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"  # noqa: PLR2004  # three digits
