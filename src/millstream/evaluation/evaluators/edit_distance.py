"""The Levenshtein distance of two texts.

Bit-parallel in blocks: G. Myers, A fast bit-vector algorithm for approximate string matching, J. ACM 46
(1999); H. Hyyrö, A bit-vector algorithm for computing Levenshtein and Damerau edit distances, Nordic Journal
of Computing 10 (2003).
"""

from millstream.evaluation.evaluators.bit_blocks import Block, blocks, text_pair


def levenshtein(one: str, other: str) -> int:
    """The fewest insertions, deletions and replacements of a character that make one text the other.

    Time grows with the product of the lengths, memory with their sum.
    """
    one, other = _differing(one, other)
    if not one or not other:
        return max(len(one), len(other))
    pair = text_pair(one, other)
    steps = [1] * len(pair.short)  # along the top edge the distance grows by 1 with every character
    for block in blocks(pair):
        steps = _below(block, pair.short, steps)
    return len(pair.long) + sum(steps)


def _differing(one: str, other: str) -> tuple[str, str]:
    """Without what both begin and end with."""
    limit = min(len(one), len(other))
    start = _alike(one[:limit], other[:limit])
    one, other = one[start:], other[start:]
    limit = min(len(one), len(other))
    end = _alike(one[len(one) - limit :][::-1], other[len(other) - limit :][::-1])
    return one[: len(one) - end], other[: len(other) - end]


def _alike(one: str, other: str) -> int:
    """How many characters texts of the same length begin with in common."""
    low, high = 0, len(one)
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _below(block: Block, symbols: list[int], steps: list[int]) -> list[int]:
    """From the steps (-1, 0, 1) of the distance along the upper edge of a block to those along its lower one.

    The bits hold where the distance rises or falls by 1: `up` and `down` from row to row of the last column,
    `right` and `left` from the last column to this one.
    """
    everywhere = (1 << block.size) - 1
    last = block.size - 1
    up, down = everywhere, 0
    below = []
    for symbol, step in zip(symbols, steps, strict=True):
        same = block.places.get(symbol, 0)
        from_above = same | down
        if step < 0:
            same |= 1
        diagonal = (((same & up) + up) ^ up) | same
        right = down | (everywhere & ~(diagonal | up))
        left = up & diagonal
        below.append((right >> last & 1) - (left >> last & 1))
        right = (right << 1 | (step > 0)) & everywhere
        left = (left << 1 | (step < 0)) & everywhere
        up = left | (everywhere & ~(from_above | right))
        down = right & from_above
    return below
