"""Not there yet."""


def install() -> None:
    """Do nothing."""


def uninstall() -> None:
    """Do nothing."""
