"""Many spans without text, in bounded memory: requests of 5 to 200 spans, nested and parallel.

    python -m benchmarks.profiler.generate FILE SPANS

prints how many requests they are.
"""

import sys
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from millstream.store import parquet
from millstream.store.prompt_blocks import PromptBlocks
from millstream.store.table import Oddities

Ints = NDArray[np.int64]
SHAPES = 400
"""Different requests; each comes again with other times and token counts."""
REQUESTS_AT_ONCE = 2000
COMMON_BLOCKS = 24
"""Blocks of 64 bytes that all prompts begin with."""
_MODELS = ("gpt-large", "gpt-small", "mixtral")
_TOOLS = ("search", "fetch", "calculator", "look_up_customer", "send_mail")
_FUNCTIONS = ("plan", "answer", "summarise")
_FIRST_NS = 1_790_000_000_000_000_000
_HEX = np.array([f"{byte:02x}".encode() for byte in range(256)], "S2")


class _Shapes(NamedTuple):
    """All shapes, one after another: the first row of each and how many it has, and columns of the rows."""

    first: Ints
    size: Ints
    parent: Ints
    kind: pa.Array
    name: pa.Array
    start: Ints
    lasts: Ints
    depth: Ints
    is_llm: NDArray[np.bool_]


def _shapes(rng: np.random.Generator) -> _Shapes:
    shapes = [_shape(rng) for _ in range(SHAPES)]
    size = np.array([len(shape) for shape in shapes])
    parent, kind, name, start, lasts, depth = zip(*chain.from_iterable(shapes), strict=True)
    return _Shapes(
        first=np.cumsum(size) - size,
        size=size,
        parent=np.array(parent),
        kind=pa.array(kind, pa.large_string()),
        name=pa.array(name, pa.large_string()),
        start=np.array(start),
        lasts=np.array(lasts),
        depth=np.array(depth),
        is_llm=np.array(kind) == "LLM",
    )


def _shape(rng: np.random.Generator) -> list[tuple[int, str, str, int, int, int]]:
    """One request: parent row, kind, name, start, duration (ns), depth, sorted by start."""
    size = int(np.exp(rng.uniform(np.log(5), np.log(200))))
    spans: list[list[Any]] = [[-1, "WORKFLOW", "support", 0, 0, 0]]
    moment, around = 1_000_000, [0]
    while len(spans) < size:
        if len(around) < 6 and rng.random() < 0.15:  # a function with calls of its own
            spans.append([around[-1], "FUNCTION", str(rng.choice(_FUNCTIONS)), moment, 0, len(around)])
            around.append(len(spans) - 1)
            moment += 200_000
            continue
        at_once = int(rng.integers(2, 6)) if rng.random() < 0.2 else 1
        longest = 0
        for _ in range(min(at_once, size - len(spans))):
            is_llm = rng.random() < 0.6
            name = str(rng.choice(_MODELS if is_llm else _TOOLS))
            lasts = int(rng.lognormal(20 if is_llm else 18, 0.5))
            spans.append([around[-1], "LLM" if is_llm else "TOOL", name, moment, lasts, len(around)])
            longest = max(longest, lasts)
        moment += longest + 500_000
        if len(around) > 1 and rng.random() < 0.4:
            closed = around.pop()
            spans[closed][4] = moment - spans[closed][3]
    for open_one in around:
        spans[open_one][4] = moment - spans[open_one][3]
    return [tuple(span) for span in spans]


def generate(path: Path, spans: int, seed: int = 1) -> int:
    """Write some `spans` spans; gives how many requests they are."""
    rng = np.random.default_rng(seed)
    shapes = _shapes(rng)
    chosen = rng.integers(0, SHAPES, int(spans / shapes.size.mean()) + 1)
    start_ns = _FIRST_NS + np.cumsum(rng.exponential(2e7, len(chosen))).astype(np.int64)
    about = msgspec.json.encode(parquet.About(parquet.VERSION, len(chosen), Oddities()))
    schema = parquet.SCHEMA.with_metadata({parquet.METADATA: about})
    row = 0
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=list(parquet.WORDS)) as writer:
        for first in range(0, len(chosen), REQUESTS_AT_ONCE):
            part = slice(first, first + REQUESTS_AT_ONCE)
            writer.write_table(_rows(rng, shapes, chosen[part], start_ns[part], first, row, schema))
            row += int(shapes.size[chosen[part]].sum())
    return len(chosen)


def _rows(
    rng: np.random.Generator,
    shapes: _Shapes,
    chosen: Ints,
    start_ns: Ints,
    first_trace: int,
    first_row: int,
    schema: pa.Schema,
) -> pa.Table:
    sizes = shapes.size[chosen]
    total = int(sizes.sum())
    begin = np.repeat(np.cumsum(sizes) - sizes, sizes) + first_row
    number = np.repeat(np.arange(len(chosen)), sizes)
    row = np.arange(first_row, first_row + total)
    flat = np.repeat(shapes.first[chosen], sizes) + row - begin
    parent, is_llm, name = shapes.parent[flat], shapes.is_llm[flat], shapes.name.take(pa.array(flat))
    stretch = rng.uniform(0.5, 2, len(chosen))[number]
    start = start_ns[number] + (shapes.start[flat] * stretch).astype(np.int64)
    end = start + (shapes.lasts[flat] * stretch).astype(np.int64)
    above = np.where(parent < 0, -1, parent + begin)
    tokens = [np.where(is_llm, rng.integers(low, high, total), -1) for low, high in ((200, 8000), (5, 900))]
    failed = rng.random(total) < 0.01
    nothing = pa.nulls(total, pa.large_string())
    before = np.cumsum(is_llm) - is_llm
    call = before - before[begin - first_row]  # of its request
    length = np.where(is_llm, COMMON_BLOCKS + 2 * np.minimum(call, 40), 0)

    def counted(values: Ints) -> pa.Array:
        return pa.array(values, mask=values < 0)

    columns: dict[str, pa.Array] = {
        "trace_id": _hex(np.stack((np.full(total, 7), number + first_trace), 1)),
        "span_id": _hex(row[:, None]),
        "parent_id": pc.if_else(pa.array(above >= 0), _hex(above[:, None]), None),
        "name": name,
        "kind": shapes.kind.take(pa.array(flat)),
        "start_ns": pa.array(start),
        "end_ns": pa.array(end),
        "status": pc.if_else(pa.array(failed), _text("error"), _text("ok")),
        "error_type": pc.if_else(pa.array(failed), _text("TimeoutError"), _text(None)),
        "input_tokens": counted(tokens[0]),
        "output_tokens": counted(tokens[1]),
        "cache_read_tokens": counted(np.where(is_llm, tokens[0] // 3, -1)),
        "reasoning_tokens": pa.nulls(total, pa.int64()),
        "attributes": pa.repeat(_text("{}"), total),
        "events": pa.repeat(_text("[]"), total),
        "links": pa.repeat(_text("[]"), total),
        "model": pc.if_else(pa.array(is_llm), name, _text(None)),
        "time_to_first_chunk_s": pa.array(rng.lognormal(-1, 0.5, total), mask=~is_llm),
        "cached": pa.repeat(pa.scalar(value=False), total),
        "trace": pa.array((number + first_trace).astype(np.int32)),
        "parent": counted(above.astype(np.int32)),
        "depth": pa.array(shapes.depth[flat].astype(np.int32)),
        "table_start_ns": pa.array(start),
        "table_end_ns": pa.array(end),
        "input_hash": counted(np.where(parent < 0, -1, rng.integers(0, 4, total))),
        "declared_root": pa.array(parent < 0),
        "prompt_blocks": _blocks(length, number + first_trace, ~is_llm),
    }
    return pa.Table.from_arrays([columns.get(field.name, nothing) for field in schema], schema=schema)


def _blocks(length: Ints, request: Ints, missing: NDArray[np.bool_]) -> pa.Array:
    """Chained hashes of prompts: one start for all requests, then each conversation's own, ever longer."""
    first = np.concatenate(([0], np.cumsum(length)))
    position = np.arange(first[-1]) - np.repeat(first[:-1], length)
    own = np.where(position < COMMON_BLOCKS, 0, np.repeat(request, length) + 1).astype(np.uint64)
    hashes = (own * np.uint64(1_000_003) + position.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
    return parquet.blocks_column(PromptBlocks(hashes, first[:-1], length, ~missing))


def _text(word: str | None) -> pa.Scalar:
    return pa.scalar(word, pa.large_string())


def _hex(numbers: Ints) -> pa.Array:
    """Numbers side by side as 16 hex digits each."""
    octets = np.ascontiguousarray(numbers.astype(">u8")).view(np.uint8)
    digits = np.ascontiguousarray(_HEX[octets])
    width = digits.shape[1] * 2
    offsets = np.arange(0, len(digits) * width + 1, width, dtype=np.int64)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(digits)]
    return pa.Array.from_buffers(pa.large_string(), len(digits), buffers)


if __name__ == "__main__":
    print(generate(Path(sys.argv[1]), int(sys.argv[2])))
