"""`millstream` and `python -m millstream`: a Ctrl-C is answered before the first slow import."""

from millstream.interrupts import end_at_once


def main() -> None:
    """Run the command line and exit with its code."""
    end_at_once()

    from millstream.cli import main as command_line  # noqa: PLC0415  # takes its time

    command_line()


if __name__ == "__main__":
    main()
