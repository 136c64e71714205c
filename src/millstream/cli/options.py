"""Options that exist with `-` and with `_`."""

from collections.abc import Callable
from typing import Any

import click


def option(*names: str, **attributes: Any) -> Callable[[Any], Any]:
    """`click.option` whose long names are understood with `-` and with `_`; the first name is the one shown.

    Args:
        *names: as click takes them, for instance `"--config_file"`.
        **attributes: as click takes them.
    """
    both: list[str] = []
    for name in names:
        both.append(name)
        if name.startswith("--"):
            bare = name.removeprefix("--")
            other = bare.replace("-", "_") if "-" in bare else bare.replace("_", "-")
            if other != bare:
                both.append(f"--{other}")
    return click.option(*both, **attributes)
