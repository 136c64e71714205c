"""Several votes of one judge on one item."""

from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from statistics import fmean, stdev
from typing import Any

import msgspec

from millstream.evaluation.evaluators.base import Score
from millstream.evaluation.judging.scale import Scale
from millstream.evaluation.judging.verdict import NoVerdictError
from millstream.workflow.explain import explain, is_server_failure


class Vote(msgspec.Struct, frozen=True):
    """One vote that was given.

    Attributes:
        share: the score from 0 to 1.
        told: what is kept of it in the reasoning.
    """

    share: float
    told: dict[str, Any]


def told_apart(rep: int, vote: int) -> AbstractContextManager[None]:  # noqa: ARG001  # until calls are cached
    """Around the calls of one vote: a cache must not give the answers of another vote or repetition."""
    return nullcontext()


async def score_of_votes(ask: Callable[[], Awaitable[Vote]], votes: int, *, rep: int, scale: Scale) -> Score:
    """The mean of some votes, asked one after the other.

    Votes that fail are counted and their reasons kept. When more than half have failed, the score is missing
    and no more are asked.

    Args:
        ask: gives one vote.
        votes: how many.
        rep: which repetition of the item is judged.
        scale: of the raw score.

    Returns:
        The mean with what was told of a single vote, or with `raw` (the mean on the judge's scale), `votes`,
        `failed_votes` and `spread` (the sample standard deviation of the votes from 0 to 1; `None` with fewer
        than 2).

    Raises:
        Exception: most votes failed, the last one by the server: it may be down for every item.
    """
    given: list[Vote] = []
    told: list[dict[str, Any]] = []
    failures: list[str] = []
    for vote in range(1, votes + 1):
        try:
            with told_apart(rep, vote):
                given.append(await ask())
            told.append(given[-1].told)
        except Exception as error:  # noqa: BLE001  # a vote is lost, whatever the model's client raises
            failures.append(str(error) if isinstance(error, NoVerdictError) else explain(error))
            told.append({"error": failures[-1]})
            if 2 * len(failures) > votes:
                return _missing(failures, votes, error)
    if votes == 1:
        return Score(given[0].share, given[0].told)
    shares = [one.share for one in given]
    mean, spread = fmean(shares), stdev(shares) if len(shares) > 1 else None
    return Score(
        mean, {"raw": scale.raw(mean), "votes": told, "failed_votes": len(failures), "spread": spread}
    )


def _missing(failures: list[str], votes: int, last: Exception) -> Score:
    if votes == 1 and not isinstance(last, NoVerdictError):
        raise last
    reason = Counter(failures).most_common(1)[0][0]
    if votes > 1:
        reason = f"{len(failures)} of {votes} votes failed: {reason}"
    if is_server_failure(last):
        raise NoVerdictError(reason) from last
    return Score(None, reason)
