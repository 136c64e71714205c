"""`gantt_chart.png`: what is drawn, and the picture itself, pixel by pixel."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageColor, ImageDraw

from millstream import semconv
from millstream.profiler import profile
from millstream.profiler.renderers import chart
from millstream.profiler.renderers.gantt import gantt, write
from millstream.span import SpanKind, Status
from millstream.store.table import SpanTable
from tests.profiler.profiler_synthetic import span

MS = 1_000_000
LLM, TOOL, WORKFLOW = "#3b6fb6", "#3d9a6c", "#c3c9d2"


def picture(spans, folder):
    """The file's pixels, height x width x 3."""
    write(profile(spans), folder / "gantt.png")
    with Image.open(folder / "gantt.png") as image:
        image.load()
        assert (image.format, image.mode, image.width) == ("PNG", "RGB", 1440)
        return np.asarray(image)


def where(pixels, colour):
    """Where pixels have exactly this colour."""
    return (pixels == ImageColor.getrgb(colour)).all(axis=2)


def bars(pixels, colour):
    """What has the colour below the legend, by runs of rows: (top, bottom, left, right)."""
    found = where(pixels, colour)
    found[:96] = False  # the legend
    rows = np.flatnonzero(found.any(axis=1))
    for run in np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1):
        columns = np.flatnonzero(found[run].any(axis=0))
        yield run[0], run[-1] + 1, columns[0], columns[-1] + 1


def written(pixels, text, *, size=13, colour="#000000"):
    """How often a text stands in a picture, glyph for glyph."""
    font = chart.font(size)
    box = font.getbbox(text, anchor="ls")
    stamp = Image.new("RGB", (round(box[2] - box[0]) + 2, round(box[3] - box[1]) + 2), "white")
    ImageDraw.Draw(stamp).text((1 - box[0], 1 - box[1]), text, colour, font, anchor="ls")
    wanted = np.asarray(stamp.convert("L"))
    grey = np.asarray(Image.fromarray(pixels).convert("L"))
    rows, columns = np.flatnonzero(wanted.min(axis=1) < 255), np.flatnonzero(wanted.min(axis=0) < 255)
    wanted = wanted[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    windows = np.lib.stride_tricks.sliding_window_view(grey, wanted.shape)
    darkest = np.unravel_index(wanted.argmin(), wanted.shape)
    places = windows[:, :, darkest[0], darkest[1]] == wanted[darkest]
    return sum((windows[y, x] == wanted).all() for y, x in np.argwhere(places))


def two_calls(**fields):
    return [
        span("w", 0, 100 * MS, kind=SpanKind.WORKFLOW, name="agent"),
        span("a", 0, 40 * MS, "w", kind=SpanKind.LLM, name="model"),
        span("b", 50 * MS, 100 * MS, "w", kind=SpanKind.TOOL, name="lookup", **fields),
    ]


def test_bars_lie_where_the_calls_were_in_the_colours_of_their_kinds(tmp_path):
    pixels = picture(two_calls(), tmp_path)
    ((_, workflow_bottom, left, right),) = bars(pixels, WORKFLOW)
    ((llm_top, llm_bottom, llm_left, llm_right),) = bars(pixels, LLM)
    ((tool_top, _, tool_left, tool_right),) = bars(pixels, TOOL)
    assert workflow_bottom < llm_top < llm_bottom < tool_top
    width = right - left
    assert width > 1200
    assert (llm_left, tool_right) == (left, right)
    assert llm_right - left == pytest.approx(0.4 * width, abs=1)
    assert tool_left - left == pytest.approx(0.5 * width, abs=1)
    assert not where(pixels, chart.FAILED).any()


def test_a_picture_says_names_lengths_ticks_and_kinds(tmp_path):
    pixels = picture(two_calls(), tmp_path)
    for text in ("agent", "model", "lookup", "LLM", "TOOL", "WORKFLOW"):
        assert written(pixels, text) == 1, text
    for text in ("100 ms", "40.0 ms", "50.0 ms"):
        assert written(pixels, text, size=12, colour="#5b6470") >= 1, text
    for text in ("60", "80", "milliseconds since the first start"):
        assert written(pixels, text, size=14) == 1, text
    assert written(pixels, "RETRIEVER") == 0
    shown = "3 calls, one row each; red edge: failed, cancelled or interrupted"
    assert written(pixels, shown, size=15, colour="#5b6470") == 1


@pytest.mark.parametrize("status", [Status.ERROR, Status.CANCELLED, Status.INTERRUPTED])
def test_a_call_that_did_not_end_well_has_a_red_edge(status, tmp_path):
    pixels = picture(two_calls(status=status), tmp_path)
    red = np.argwhere(where(pixels, chart.FAILED))
    ((top, bottom, left, right),) = bars(pixels, TOOL)
    (first_y, first_x), (last_y, last_x) = red.min(axis=0), red.max(axis=0)
    assert 1 <= top - first_y <= 3
    assert 1 <= last_y - bottom + 1 <= 3
    assert 1 <= left - first_x <= 3
    assert 1 <= last_x - right + 1 <= 3
    ((_, _, _, well_right),) = bars(pixels, LLM)
    assert first_x > well_right


def test_a_call_that_took_no_time_is_a_line(tmp_path):
    spans = [*two_calls(), span("z", 100 * MS, 100 * MS, "w", kind=SpanKind.RETRIEVER)]
    pixels = picture(spans, tmp_path)
    ((_, _, left, right),) = bars(pixels, "#3a9aa8")
    ((_, _, _, tool_right),) = bars(pixels, TOOL)
    assert (left, right) == (tool_right, tool_right + 1)


def many_requests(count, failed=()):
    for number in range(count):
        status = Status.ERROR if number in failed else Status.OK
        trace_id = str(number)
        yield span(
            f"w{number}", 0, (count - number) * MS, kind=SpanKind.WORKFLOW, trace_id=trace_id, status=status
        )
        yield span(
            f"l{number}", 0, (count - number) * MS // 2, f"w{number}", kind=SpanKind.LLM, trace_id=trace_id
        )


def test_requests_are_rows_the_slowest_first_with_dots_at_those_that_failed(tmp_path):
    pixels = picture(list(many_requests(40, failed={3, 20})), tmp_path)
    rows = list(bars(pixels, LLM))
    assert len(rows) == 40
    widths = [right - left for _, _, left, right in rows]
    assert widths == sorted(widths, reverse=True)
    for row, width in enumerate(widths):
        assert width == pytest.approx(widths[0] * (40 - row) / 40, abs=6)  # a dot covers 4 of them
    dots = list(bars(pixels, chart.FAILED))
    assert [(top + bottom) // 2 for top, bottom, _, _ in dots] == [
        (rows[row][0] + rows[row][1]) // 2 for row in (3, 20)
    ]
    assert {right - left for _, _, left, right in dots} <= {5, 6, 7}
    assert written(pixels, "request 39") == 1


def test_calls_thinner_than_a_pixel_are_mixed_not_lost(tmp_path):
    spans = []
    for number in range(31):
        trace_id = str(number)
        spans.append(span(f"w{number}", 0, 5000, kind=SpanKind.WORKFLOW, trace_id=trace_id))
        spans += [
            span(f"{number}.{at}", at, at + 1, f"w{number}", kind=SpanKind.LLM, trace_id=trace_id)
            for at in range(0, 2500, 2)
        ]
    pixels = picture(spans, tmp_path)
    ((top, bottom, left, right), *_) = bars(pixels, WORKFLOW)
    assert len(list(bars(pixels, WORKFLOW))) == 31
    crowded = pixels[(top + bottom) // 2, 400:600].astype(int)
    assert (crowded[:, 0] < ImageColor.getrgb(WORKFLOW)[0] - 20).all()
    assert (crowded[:, 0] > ImageColor.getrgb(LLM)[0]).any()
    assert right - left < 1300


@pytest.mark.parametrize("count", [0, 1, 70])
def test_where_nothing_has_ended_it_says_so(count, tmp_path):
    spans = [span("w", 0, None, kind=SpanKind.WORKFLOW)]
    for number in range(count):
        spans.append(span(f"w{number}", 0, None, kind=SpanKind.WORKFLOW, trace_id=str(number)))
        if count > 1:
            spans.append(span(f"l{number}", 0, 5, f"w{number}", kind=SpanKind.LLM, trace_id=str(number)))
    pixels = picture(spans, tmp_path)
    what = "request" if count > 1 else "call"
    assert written(pixels, f"No {what} has ended, so there is nothing to draw.", size=20) == 1
    assert (pixels[:100] == 255).all()


def test_it_does_not_grow_with_what_is_drawn(tmp_path):
    assert picture(list(many_requests(120)), tmp_path).shape[0] == 1242
    assert picture(list(many_requests(1000)), tmp_path).shape[0] < 1242
    calls = [span(str(at), at * MS, at * MS + at + 1, name=f"call {at}") for at in range(1000)]
    pixels = picture(calls, tmp_path)
    assert pixels.shape[0] < 3700
    drawn = gantt(SpanTable.from_spans(calls))
    assert drawn.shown.startswith("the 120 longest of 1000 calls")
    assert drawn.labels == [f"call {at}" for at in range(880, 1000)]


def test_of_many_requests_it_says_which_it_shows(many, many_spans):
    one = gantt(SpanTable.from_spans([s for s in many_spans if s.trace_id == many.order[0]]))
    assert one.labels.count("lookup_sender") == 8
    ended = np.sum(many.table.roots() & many.table.closed)
    assert gantt(many.table).shown.startswith(f"all {ended} finished requests")
    table = SpanTable.from_spans(
        span(str(i), i * 10, i * 10 + 1 + i, kind=SpanKind.LLM, trace_id=str(i)) for i in range(1000)
    )
    drawn = gantt(table)
    assert drawn.shown.startswith("112 of 1000 finished requests (every 9th by run time)")
    assert drawn.labels[0] == "request 999"
    assert sum(map(bool, drawn.labels)) == 13


def test_requests_of_an_evaluation_are_named_by_their_item():
    ids = {semconv.EVAL_ITEM_ID: "007 $x"}
    spans = [
        span("a", 0, 10, trace_id="0", kind=SpanKind.WORKFLOW, attributes=ids),
        span("b", 2, 9, "a", trace_id="0", kind=SpanKind.TOOL, name="look"),
        span("c", 20, 30, trace_id="1", kind=SpanKind.WORKFLOW, status=Status.CANCELLED),
    ]
    drawn = gantt(SpanTable.from_spans(spans))
    assert drawn.labels == ["request 0 · 007 $x  f", "request 0 · 007 $x  look", "request 1  f"]
    assert drawn.failed_bars.tolist() == [2]


@pytest.mark.parametrize("name", ["Größenprüfung — été", "Проверка письма", "Ωμέγα → ok", "naïve $a_b$ {x}"])
def test_names_are_written_as_they_are(name, tmp_path):
    assert written(picture([span("a", 0, 5, name=name)], tmp_path), name) == 1


def test_the_font_has_letters_and_a_box_for_what_it_lacks():
    def shape(character):
        mask = chart.font(13).getmask(character)
        return mask.size, bytes(mask)

    box = shape("検")
    assert max(box[1]) > 200
    assert shape("文") == shape("🙂") == box
    for character in "azAZ09éßőŁșΩжЯї—…“”€→←·שلا":
        assert shape(character) != box, character


@pytest.mark.parametrize("name", ["W" * 5000, "検" * 5000, "a\n\x00\x1b[31m\u202e\ud800b", ""])
def test_no_name_takes_the_picture_or_breaks_it(name, tmp_path):
    ids = {semconv.EVAL_ITEM_ID: name}
    spans = [span(s, 0, 5 * MS, trace_id=s, name=name, kind=SpanKind.LLM, attributes=ids) for s in "ab"]
    pixels = picture(spans, tmp_path)
    assert len(list(bars(pixels, LLM))) == 2
    for _, _, left, right in bars(pixels, LLM):
        assert right - left > 600


def test_nothing_is_written_over_anything_or_cut_at_an_edge(tmp_path):
    kinds = list(SpanKind) + list(SpanKind)
    spans = [
        span(str(at), at * MS, at * MS + 9 * 3_600_000 * MS, kind=kind, name=kind.value)
        for at, kind in enumerate(kinds)
    ]
    pixels = picture(spans, tmp_path)
    for edge in (pixels[:, :8], pixels[:, -8:], pixels[:4], pixels[-4:]):
        assert (edge == 255).all()
    for kind in set(kinds):
        assert written(pixels, kind.value) == 3, kind  # in the legend and at two rows
    assert written(pixels, "9.00 h", size=12, colour="#5b6470") == len(kinds)


def test_a_legend_that_is_too_long_has_further_lines():
    drawn = gantt(SpanTable.from_spans(two_calls()))
    names = [f"kind of call {number:02}" for number in range(30)]
    drawn = dataclasses.replace(
        drawn,
        kinds=[(name, LLM) for name in names],
        row=np.zeros(30, int),
        kind=np.arange(30),
        start_s=np.zeros(30),
        end_s=np.ones(30),
        lengths=(),
    )
    pixels = np.asarray(chart.draw(drawn))
    assert [written(pixels, name) for name in names] == [1] * 30
    assert (pixels[:, -8:] == 255).all()


def test_it_needs_no_matplotlib(tmp_path):
    code = "import sys, millstream.profiler.write; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 0
