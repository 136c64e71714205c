"""All files of a profile. One that cannot be written is reported; the others are still written."""

import errno
import warnings
from collections.abc import Callable
from pathlib import Path

from millstream.errors import MillstreamError, MissingExtraError, StorageError
from millstream.profiler.engine import Profile
from millstream.profiler.renderers import (
    chrome_trace,
    findings,
    gantt,
    html,
    metrics,
    optimization,
    parquet,
    prediction_trie,
    speedscope,
    standardized,
    text,
    traces,
)
from millstream.profiler.results import EvaluationSummary

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
Writer = Callable[[Profile, Path], None]
_OF_SPANS: dict[str, Writer] = {
    "all_requests_profiler_traces.json": traces.write,
    "standardized_data_all.csv": standardized.write,
    "spans.parquet": parquet.write,
    "trace.json": chrome_trace.write,
    "trace.speedscope.json": speedscope.write,
    "gantt_chart.png": gantt.write,
}
"""Written first: a forecast may be in the making meanwhile."""
_OF_FINDINGS: dict[str, Writer] = {
    "inference_optimization.json": optimization.write,
    "workflow_profiling_metrics.json": metrics.write,
    "workflow_profiling_report.txt": text.write,
    "findings.json": findings.write,
}


def write_profile(
    profile: Profile,
    output_dir: Path,
    *,
    evaluation: EvaluationSummary | None = None,
    on_error: Callable[[str, Exception], None] | None = None,
) -> list[Path]:
    """Write every file of a profile. Each appears whole or not at all.

    Args:
        profile: what `profile` returned.
        output_dir: made when it is not there.
        evaluation: scores and items, for `report.html`.
        on_error: told the name of a file that could not be written, and why; by default a warning.

    Returns:
        The files that were written.

    Raises:
        StorageError: the folder cannot be made.
    """
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = _in_the_way(output_dir, error)
        raise StorageError(
            f"Cannot make the folder {output_dir}: {why}. Choose another output_dir."
        ) from error
    first = dict(_OF_SPANS)
    if profile.config.prediction_trie.enable:
        first[profile.config.prediction_trie.output_filename] = prediction_trie.write
    first["report.html"] = lambda found, path: html.write(found, path, evaluation)
    written = []

    def write(writers: dict[str, Writer]) -> None:
        for name, writer in writers.items():
            path = output_dir / name
            try:
                writer(profile, path)
            except Exception as error:  # noqa: BLE001  # one file must not lose the others
                (on_error or _warn)(name, _explained(path, error))
            else:
                written.append(path)

    write(first)
    profile.complete()  # so that each file can name the analyses that failed
    write(_OF_FINDINGS)
    return written


def _explained(path: Path, error: Exception) -> Exception:
    """What to tell of a file that could not be written."""
    if isinstance(error, ModuleNotFoundError) and not isinstance(error, MissingExtraError):
        return MissingExtraError(path.name, "profiling")
    if not isinstance(error, OSError) or isinstance(error, MillstreamError):
        return error
    advice = (
        "make room, or choose another output_dir" if error.errno in _FULL else "choose another output_dir"
    )
    older = "; what is there is older" if path.exists() else ""
    return StorageError(f"{error.strerror or error}; {advice}{older}")


def _in_the_way(folder: Path, error: OSError) -> str:
    """Why a folder cannot be made; of a file the system only says that it exists."""
    if isinstance(error, FileExistsError | NotADirectoryError):
        file = next(path for path in (folder, *folder.parents) if path.exists())
        return "it is a file" if file == folder else f"{file} is a file"
    return error.strerror or str(error)


def _warn(name: str, error: Exception) -> None:
    why = str(error) if isinstance(error, MillstreamError) else f"{type(error).__name__}: {error}"
    warnings.warn(f"{name} could not be written: {why}", RuntimeWarning, stacklevel=4)
