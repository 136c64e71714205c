"""A forecast that another process makes while this one reads and writes: it takes as long as all else."""

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from millstream.profiler.forecast.finding import Finding
    from millstream.store.table import SpanTable


class Beside:
    """The other process, from `with` on: it loads what it needs, and waits for what to learn from."""

    def __enter__(self) -> Self:
        # -P: what lies in the working directory is not ours. A session of its own: Ctrl-C is for us.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "millstream.profiler.forecast"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._pool = ThreadPoolExecutor(1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._process.kill()
        self._pool.shutdown()
        with self._process:  # closes the pipes, and waits
            pass

    def begin(self, table: "SpanTable") -> "Callable[[], Finding]":
        """Hand over what to learn from, once.

        Returns:
            Waits for the finding. Where the other process came to grief, its work is done in this one.
        """
        # Loaded when there is a table.
        from millstream.errors import InputError  # noqa: PLC0415
        from millstream.profiler.forecast.finding import Refused, learned, read  # noqa: PLC0415
        from millstream.profiler.forecast.training import encoded, training_of  # noqa: PLC0415

        try:
            training = training_of(table)
        except InputError as error:
            refused = Refused(str(error))
            return lambda: refused
        answer = self._pool.submit(self._process.communicate, encoded(training))

        def finding() -> "Finding":
            told, _ = answer.result()
            return learned(training) if self._process.returncode else read(told)

        return finding
