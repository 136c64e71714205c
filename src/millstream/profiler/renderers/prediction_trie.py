"""`prediction_trie.json`: the prediction trie in the reference's form, which its clients load."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np

from millstream.profiler.engine import Profile
from millstream.profiler.prediction_trie import prediction_trie
from millstream.profiler.renderers.files import write_json
from millstream.store.table import SpanTable

VERSION: Final = "1.0"
SEVERAL_WORKFLOWS: Final = "profiled_workflow"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def document(profile: Profile) -> dict[str, Any]:
    """The document; `generated_at` is the latest moment of the record, so that the same spans give it."""
    table = profile.table
    latest = int(np.maximum(table.start_ns, table.end_ns).max(initial=0))
    return {
        "version": VERSION,
        "generated_at": (_EPOCH + timedelta(microseconds=latest // 1000)).isoformat(),
        "workflow_name": _workflow(table),
        "root": prediction_trie(table, profile.config.prediction_trie),
    }


def write(profile: Profile, path: Path) -> None:
    """Write the file."""
    write_json(path, document(profile))


def _workflow(table: SpanTable) -> str:
    """The name of the roots, when they have one."""
    names = np.unique(table.name[table.roots()])
    return table.names[names[0]] if len(names) == 1 else SEVERAL_WORKFLOWS
