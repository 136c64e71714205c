"""Scores by people, from a CSV file."""

from pathlib import Path
from typing import Any, Final

import msgspec

from millstream.errors import InputError, nearest
from millstream.evaluation.datasets.csv_rows import read_csv
from millstream.evaluation.datasets.rows import Row
from millstream.evaluation.datasets.source import opened_source
from millstream.evaluation.judging.scale import BadScoreError, Scale

_NEEDED: Final = ("id", "score")


class Label(msgspec.Struct, frozen=True):
    """What people say of one answer.

    Attributes:
        id: of the item.
        rep: which repetition was judged.
        share: their score, from 0 to 1; `None` where the field is empty.
        values: the other columns, such as `answer`, `question`, `expected`; `None` where the field is empty.
    """

    id: str
    rep: int
    share: float | None
    values: dict[str, Any]

    @property
    def row(self) -> dict[str, Any]:
        """The columns that are not empty."""
        return {name: value for name, value in self.values.items() if value is not None}


def read_labels(path: Path, scale: Scale) -> list[Label]:
    """The labels of a file.

    Args:
        path: a CSV file with the columns `id` and `score`; `rep`, `answer`, `question` and `expected` are
            known, others may be what answers are compared with.
        scale: of the scores.

    Raises:
        InputError: it cannot be read, a column is missing, an id is missing or occurs twice, or a score is
            not on the scale.
    """
    with opened_source(str(path)) as source:
        rows = list(read_csv(source))
    if not rows:
        raise InputError(f"{path} has no rows.")
    for column in _NEEDED:
        if column not in rows[0].values:
            raise InputError(f"{path} has no column {column!r}{nearest(column, rows[0].values)}")
    labels = [_label(path, row, scale) for row in rows]
    seen: set[tuple[str, int]] = set()
    for label, row in zip(labels, rows, strict=True):
        if (label.id, label.rep) in seen:
            raise InputError(
                f"{path}, {row.where}: the id {label.id!r} occurs twice. Give each answer one score, the "
                "mean or the majority where several people have scored it."
            )
        seen.add((label.id, label.rep))
    return labels


def _label(path: Path, row: Row, scale: Scale) -> Label:
    values = {name: None if value == "" else value for name, value in row.values.items()}
    label_id, score, rep = values.pop("id"), values.pop("score"), values.pop("rep", None) or "1"
    if label_id is None:
        raise InputError(f"{path}, {row.where} has no id.")
    if not str(rep).isdecimal() or int(rep) < 1:
        raise InputError(f"{path}, {row.where}: rep {rep!r} is not a number from 1.")
    try:
        share = None if score is None else scale.share(scale.read(score))
    except BadScoreError as error:
        raise InputError(f"{path}, {row.where}: the score {score!r} {error}.") from None
    return Label(label_id, int(rep), share, values)
