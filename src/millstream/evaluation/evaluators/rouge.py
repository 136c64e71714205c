"""ROUGE-L of two texts.

C.-Y. Lin, ROUGE: a package for automatic evaluation of summaries, 2004: the longest common subsequence of
words. Its length is computed bit-parallel: H. Hyyrö, Bit-parallel LCS-length computation revisited, AWOCA
2004.
"""

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from millstream.evaluation.evaluators.bit_blocks import Block, blocks, word_pair

_WORD: Final = re.compile(r"[^\W_]+")


class RougeL(msgspec.Struct, frozen=True):
    """Shares of the words that are in the longest common subsequence.

    Attributes:
        f1: 2 x common / (words of both).
        precision: common / words of the answer.
        recall: common / words of the expected answer.
    """

    f1: float
    precision: float
    recall: float


def words(text: str) -> list[str]:
    """Runs of letters and digits in lower case; of ASCII text those of Google's `rouge-score`."""
    return _WORD.findall(text.lower())


def rouge_l(answer: Sequence[str], expected: Sequence[str]) -> RougeL:
    """ROUGE-L of two lists of words; all 0 where one is empty."""
    if not answer or not expected:
        return RougeL(0.0, 0.0, 0.0)
    common = common_length(answer, expected)
    return RougeL(2 * common / (len(answer) + len(expected)), common / len(answer), common / len(expected))


def common_length(one: Sequence[str], other: Sequence[str]) -> int:
    """The length of the longest common subsequence. Time grows with the product, memory with the sum."""
    pair = word_pair(one, other)
    carries = [0] * len(pair.short)
    length = 0
    for block in blocks(pair):
        found, carries = _through(block, pair.short, carries)
        length += found
    return length


def _through(block: Block, symbols: list[int], carries: list[int]) -> tuple[int, list[int]]:
    """How many rows of a block the length grows at, and by symbol the bit that goes on to the next block."""
    everywhere = (1 << block.size) - 1
    flat = everywhere
    onwards = []
    for symbol, carry in zip(symbols, carries, strict=True):
        same = flat & block.places.get(symbol, 0)
        whole = flat + same + carry
        onwards.append(whole >> block.size)
        flat = (whole & everywhere) | (flat - same)
    return block.size - flat.bit_count(), onwards
