"""report.html in a real browser: no network, hostile text inert, everything by keyboard."""

import re
import time
from html import unescape

import msgspec
import pytest

from millstream import semconv
from millstream.profiler import engine, profile
from millstream.profiler.config import ProfilerConfig
from millstream.profiler.renderers.embed import embed, script_safe
from millstream.profiler.renderers.html import render, write
from millstream.profiler.renderers.prefix_tree import prefix_tree
from millstream.profiler.results import EvaluationSummary, ItemSummary, ScoreSummary
from millstream.span import SpanError, SpanKind, Status, Usage
from tests.profiler.profiler_synthetic import runs, span

HOSTILE = '</script><img src=x onerror="window.hacked=1"><!--<script>\u2028\'"&amp;{{7*7}}'


def evaluation(found, *, items=60):
    return EvaluationSummary(
        title="phishing <b>agent</b>",
        scores=[ScoreSummary("accuracy", 0.8, 58, 1, 1, 0.7, 0.9), ScoreSummary("none", None, 0, 60)],
        items=[
            ItemSummary(f"email {i}", 1, trace_id, f"question {i} {HOSTILE}", "yes", None if i == 3 else "no",
                        "TimeoutError: 30 s" if i == 3 else None, {"accuracy": None if i == 3 else 1.0})
            for i, trace_id in enumerate(found.order[:items])
        ],
    )  # fmt: skip


def test_headings_and_figures_are_there_without_a_script(many):
    page = render(many, evaluation(many))
    headings = " ".join(re.findall(r"<h[23][^>]*>([^<]*)</h", page)).lower()
    for name in (
        "critical path",
        "concurrency",
        "timeline",
        "waterfall",
        "flame graph",
        "latency distribution",
        "models",
        "errors and retries",
        "cost",
        "prompt prefixes",
        "cache opportunity",
        "frequent sequences",
        "forecast",
        "scores",
        "items",
    ):
        assert name in headings
    assert page.index('id="summary"') < page.index('id="scores"') < page.index('id="timeline"')
    assert "phishing &lt;b&gt;agent&lt;/b&gt;" in page
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:|//)""", page)
    assert page.count("</script>") == 3


def test_data_cannot_leave_its_script():
    text = script_safe({"a": HOSTILE})
    assert not set("<>&\u2028\u2029") & set(text)
    assert msgspec.json.decode(text) == {"a": HOSTILE}


def test_long_texts_are_cut_evenly_and_marked():
    spans = [span(str(i), i, i + 1, name="f", input="x" * 10_000, output=f"{i} short") for i in range(20)]
    spans[3].input = "y" * 900
    found = embed(profile(spans), budget=5000)
    texts = msgspec.json.decode(found.json)["texts"]
    assert sum(map(len, texts)) < 5200
    assert "3 short" in texts
    assert "y" * 900 in texts
    assert max(texts, key=len).endswith("[cut in this report]")
    assert found.cut_texts == 1


def test_with_too_many_spans_failed_and_slow_requests_stay(monkeypatch):
    spans = [
        span(f"{i:x}", i * 1000, i * 1000 + i, trace_id=f"{i:032x}", kind=SpanKind.WORKFLOW)
        for i in range(40)
    ]
    spans[5].status = Status.ERROR
    monkeypatch.setattr("millstream.profiler.renderers.embed.MAX_SPANS", 10)
    found = profile(spans)
    assert embed(found).requests == [5, *range(31, 40)]
    assert "Here are 10 of 40 requests" in render(found)


def test_a_thousand_requests_fit_in_15_mb(tmp_path):
    write(profile(runs(1000, steps=3)), tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < 15_000_000


def test_twenty_thousand_requests_of_one_span_take_no_more_than_as_many_spans():
    spans = [
        span(f"{n}", n, n + 9, trace_id=f"{n:032x}", kind=SpanKind.WORKFLOW, name="w") for n in range(20_000)
    ]
    found = profile(spans)
    began = time.process_time()
    assert len(embed(found).requests) == 20_000
    assert time.process_time() - began < 4  # it took 11 s when it grew with the square


def text_of(page, section):
    """The text of one section of a page, without tags."""
    part = page.split(f'id="{section}"', 1)[1].split("</section>", 1)[0]
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", part)).split())


def test_what_failed_was_refused_or_is_off_is_said_in_its_place(many_spans, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("no <luck>")

    sections = {
        "retries": "errors", "cost": "cost", "prefixes_by_share": "prefixes", "cache_opportunity": "cache",
        "patterns": "sequences", "forecast": "forecast", "uniqueness": "forecast", "latency": "latency",
        "tokens": "models", "concurrency": "concurrency",
    }  # fmt: skip
    for analysis in sections:
        monkeypatch.setattr(engine, analysis, broken)
    page = render(profile(many_spans[:200]))
    for section in sections.values():
        assert "This analysis failed: ZeroDivisionError: no <luck>" in text_of(page, section)
    monkeypatch.undo()
    page = render(profile(many_spans[:200]))
    assert "There is no forecast: " in text_of(page, "forecast")
    assert "30" in text_of(page, "forecast")
    page = render(profile(many_spans[:200], ProfilerConfig()))
    for section in ("prefixes", "cache", "sequences", "forecast"):
        assert text_of(page, section).endswith("is off.")
    assert "No call failed" in text_of(render(profile([span("a", 0, 1)])), "errors")


def test_a_model_may_have_any_name():
    """Results by model are no failures, whatever the model is called."""
    spans = [
        span(f"{n}", n, n + 9, name=name, kind=SpanKind.LLM, input=[{"role": "user", "content": "x" * 99}])
        for n, name in enumerate(("error", "error", "items", "refused"))
    ]
    page = render(profile(spans))
    assert "This analysis failed" not in page
    assert "refused" in text_of(page, "prefixes")


def test_prefixes_are_a_tree_with_shares_of_calls_and_tokens():
    system = "You judge emails by their sender and their words. " * 4
    few = "Few-shot: the answer to spam is yes. " * 3

    def prompt(number, text):
        return span(f"{number}", number, number + 5, name="m", kind=SpanKind.LLM, usage=Usage(100, 1),
                    input=[{"role": "system", "content": text}])  # fmt: skip

    spans = [prompt(n, system + few + f"{n:02d} first") for n in range(30)]
    spans += [prompt(n, system + f"{n:02d} second") for n in range(30, 40)]
    found = profile(spans).prompt_starts["m"]
    (top,) = prefix_tree(found)
    assert (top.info.calls_count, top.adds.strip()) == (40, f"system: {system.strip()}")
    assert top.below[0].info.calls_count == 30
    assert top.below[0].adds.startswith("Few-shot")
    assert all(len(start.adds) >= 16 for start in top.below)
    text = text_of(render(profile(spans)), "prefixes")
    assert "100.0 % of calls" in text
    assert "75.0 % of calls" in text
    assert re.search(r"100\.0 % of calls · \d+\.\d % of input tokens", text)


def test_figures_of_the_findings_are_in_the_page(many):
    page = render(many)
    row = next(row for row in many.retries if row.errors)
    assert f"{row.name} {row.calls} {row.errors}" in text_of(page, "errors")
    for target in ("LLM calls", "Tokens", "Time", "First tool"):
        assert target in text_of(page, "forecast")
    (one,) = many.cache[:1]
    assert f"{100 * one.observed.value:.1f} %" in text_of(page, "cache")
    assert f"{100 * one.achievable:.1f} %" in text_of(page, "cache")
    assert "no earlier prompt began like this" in text_of(page, "cache")
    assert "no price for the model" in text_of(page, "cost")
    kind_and_name = f"{many.latency[0].n} calls of {many.latency[0].kind} {many.latency[0].name}"
    assert re.search(rf'aria-label="Latencies of {kind_and_name} on [^"]*: p50 .*, p95 .*, p99 ', page)


@pytest.mark.browser
def test_choosing_a_request_by_keyboard_changes_the_timeline(opened, many):
    page = opened(many)
    chooser = page.get_by_label("Request", exact=True)
    assert chooser.evaluate("e => e.options.length") == 60
    before = page.locator("#timeline").get_attribute("data-trace")
    chooser.focus()
    page.keyboard.press("Home")
    after = page.locator("#timeline").get_attribute("data-trace")
    assert after == many.order[0] != before
    assert many.order[0] in page.locator("#shown").inner_text()
    page.keyboard.press("ArrowDown")
    assert page.locator("#timeline").get_attribute("data-trace") == many.order[1]
    rows = page.locator("#calls tr")
    assert rows.count() == sum(s.trace_id == many.order[1] for s in many.table.spans)
    option = chooser.evaluate("e => e.selectedOptions[0].text")
    assert many.order[1][:8] in option


@pytest.mark.browser
def test_the_chooser_names_items_and_cancelled_requests(opened):
    spans = [
        span("a", 0, 2_010_000_000, trace_id="4a7e6b25" + 24 * "0", kind=SpanKind.WORKFLOW,
             attributes={semconv.EVAL_ITEM_ID: "007"}),
        span("b", 0, 10, trace_id="b" * 32, kind=SpanKind.WORKFLOW, status=Status.CANCELLED),
    ]  # fmt: skip
    page = opened(profile(spans))
    options = page.get_by_label("Request", exact=True).evaluate("e => [...e.options].map(o => o.text)")
    assert options == ["#0 · 007 · 2.01 s · 4a7e6b25", "#1 · 0.01 µs · bbbbbbbb · cancelled"]
    page.get_by_role("button", name="Next failed, cancelled or unfinished").click()
    assert page.locator("#shown").inner_text().endswith(", cancelled.")
    assert "failed" in page.locator("#calls .span-bar").first.get_attribute("class")
    assert "1 cancelled" in page.locator("#summary").inner_text()


@pytest.mark.browser
def test_rows_follow_the_tree_and_keys_show_details(opened, many):
    page = opened(many)
    page.get_by_label("Request", exact=True).select_option("0")
    first = page.locator("#calls button").first
    assert first.inner_text().startswith("phishing_agent")
    first.focus()
    page.keyboard.press("ArrowDown")
    details = page.locator("#details")
    assert details.locator("h3").inner_text() == "meta-llama-3.1-8b-instruct"
    assert "Judge emails." in details.inner_text()
    assert "Output tokens" in details.inner_text()
    assert "gen_ai.request.temperature" in details.inner_text()
    page.keyboard.press("End")
    selected = page.locator('#calls tr[aria-selected="true"]')
    assert selected.count() == 1
    assert selected.get_attribute("data-index") == str(page.locator("#calls tr").count() - 1)
    indents = page.locator("#calls button").evaluate_all("all => all.map(e => parseInt(e.style.paddingLeft))")
    assert indents[:4] == [0, 14, 14, 28]
    bar = (
        page.locator("#calls .span-bar")
        .nth(1)
        .evaluate("e => [parseFloat(e.style.left), parseFloat(e.style.width)]")
    )
    call = next(s for s in many.table.spans if s.trace_id == many.order[0] and s.kind is SpanKind.LLM)
    root = next(s for s in many.table.spans if s.trace_id == many.order[0] and s.parent_id is None)
    whole = root.end_ns - root.start_ns
    expected = [100 * (call.start_ns - root.start_ns) / whole, 100 * (call.end_ns - call.start_ns) / whole]
    assert bar == pytest.approx(expected, abs=0.01)


@pytest.mark.browser
def test_the_flame_graph_nests_and_is_moved_in_by_keyboard(opened, many):
    page = opened(many)
    page.get_by_label("Request", exact=True).select_option("0")
    flame = page.get_by_role("group", name="Flame graph")
    bars = flame.get_by_role("button")
    spans = [s for s in many.table.spans if s.trace_id == many.order[0]]
    assert bars.count() == len(spans)
    boxes = bars.evaluate_all(
        "all => all.map(e => ['top', 'left', 'width'].map(side => parseFloat(e.style[side])))"
    )
    rows = {}
    for top, left, width in sorted(boxes):
        assert left >= rows.get(top, 0) - 1e-6, "calls of one row do not overlap"
        rows[top] = left + width
    assert len(rows) == 6  # lookups side by side need a row more than the tree is deep
    root = bars.first
    assert root.get_attribute("aria-label").startswith("phishing_agent, WORKFLOW, ")
    root.focus()
    page.keyboard.press("ArrowDown")
    details = page.locator("#details h3")
    assert details.inner_text() == "meta-llama-3.1-8b-instruct"
    page.keyboard.press("ArrowRight")
    assert details.inner_text() == "email_phishing_analyzer"
    chosen = flame.locator('[aria-current="true"]')
    assert chosen.evaluate("e => e === document.activeElement")
    assert page.locator('#calls tr[aria-selected="true"]').inner_text().startswith("email_phishing_analyzer")
    page.keyboard.press("ArrowUp")
    assert details.inner_text() == "phishing_agent"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("End")
    last = flame.locator(":focus").get_attribute("aria-label")
    page.get_by_role("button", name="Zoom in on the chosen call").click()
    zoomed = flame.locator(":focus")
    assert zoomed.get_attribute("aria-label") == last
    assert zoomed.evaluate("e => [e.style.left, e.style.width]") == ["0%", "100%"]
    page.get_by_role("button", name="Whole request").click()
    assert bars.count() == len(spans)
    page.locator("#calls button").nth(3).click()
    assert flame.locator('[aria-current="true"]').get_attribute("data-index") == "3"
    assert flame.locator('[tabindex="0"]').count() == 1


@pytest.mark.browser
def test_twenty_thousand_spans_are_shown_without_lag(opened):
    spans = [span("r", 0, 10_000_000, name="agent", kind=SpanKind.WORKFLOW)]
    for n in range(5000):
        begin = n * 1900
        spans += [
            span(f"a{n}", begin, begin + 1800, "r", name="step"),
            span(f"b{n}", begin + 10, begin + 1700, f"a{n}", name="think", kind=SpanKind.LLM),
            span(f"c{n}", begin + 20, begin + 900, f"b{n}", name="search", kind=SpanKind.TOOL),
            span(f"d{n}", begin + 20, begin + 1000, f"b{n}", name="look", kind=SpanKind.TOOL),
        ]
    page = opened(profile(spans))
    took = """act => {
        const from = performance.now();
        act();
        document.body.offsetHeight;
        return performance.now() - from;
    }"""
    plain = """() => {
        const table = document.body.appendChild(document.createElement("table"));
        const cells = "<td>a<td>b<td>c<td><b>d</b>".repeat(2);
        for (let row = 0; row < 5000; row++) table.insertRow().innerHTML = cells;
        document.body.offsetHeight;
        table.remove();
    }"""
    by_itself_ms = page.evaluate(f"({took})({plain})")  # what so many rows take this browser on this machine
    chooser = "document.getElementById('request').dispatchEvent(new Event('change'))"
    shown_ms = min(page.evaluate(f"({took})(() => {chooser})") for _ in range(4))
    assert shown_ms < 0.6 * by_itself_ms  # a seventh; 180 ms undisturbed
    drawn = page.locator("#flame button").count()
    assert 1000 < drawn <= 1500
    left = f"{20_001 - drawn:,} more are too short or too deep to draw"
    assert left in page.locator("#flame-note").inner_text()
    step = page.locator("#flame button").nth(7)
    step.click()
    page.get_by_role("button", name="Zoom in on the chosen call").click()
    assert page.locator("#flame button").count() < 12
    click = "document.getElementById('more').click()"
    assert page.evaluate(f"({took})(() => {click})") < 6 * by_itself_ms  # twice
    assert page.locator("#calls tr").count() == 5400


@pytest.mark.browser
def test_deep_chains_and_many_side_by_side_are_drawn_as_far_as_there_is_room(opened):
    chain = [
        span(f"{n:x}", n, 10_000 - n, f"{n - 1:x}" if n else None, trace_id="c" * 32) for n in range(3000)
    ]
    wide = [span("r", 0, 10_000), *(span(f"w{n}", n, 9000, "r") for n in range(1, 300))]
    page = opened(profile([*chain, *wide]))
    for number, drawn, left in (("0", 60, "2,940"), ("1", 60, "240")):
        page.get_by_label("Request", exact=True).select_option(number)
        assert page.locator("#flame button").count() == drawn
        assert f"{left} more are too short or too deep" in page.locator("#flame-note").inner_text()


@pytest.mark.browser
def test_an_item_leads_to_its_timeline(opened, many):
    page = opened(many, evaluation(many))
    page.get_by_role("button", name="email 7", exact=True).click()
    page.get_by_role("button", name="All details of its calls").click()
    assert page.locator("#timeline").get_attribute("data-trace") == many.order[7]
    assert page.get_by_label("Request", exact=True).evaluate("e => e === document.activeElement")
    assert "0.8" in page.locator("#scores").inner_text()
    assert "✕ TimeoutError: 30 s" in page.locator("#items").inner_text()


@pytest.mark.browser
def test_hostile_text_is_inert_and_shown(opened):
    spans = [
        span("r", 0, 100, name=HOSTILE, kind=SpanKind.WORKFLOW, trace_id=HOSTILE, input=HOSTILE,
             output={HOSTILE: HOSTILE}),
        span("c", 10, 50, "r", name=HOSTILE, kind=SpanKind.LLM, trace_id=HOSTILE, status=Status.ERROR,
             error=SpanError("E", HOSTILE), attributes={HOSTILE: HOSTILE, "gen_ai.request.model": HOSTILE},
             input=[{"role": HOSTILE, "content": HOSTILE}]),
    ]  # fmt: skip
    found = profile(spans)
    page = opened(found, evaluation(found))
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0
    assert HOSTILE.replace("\u2028", "") in page.locator("#details").inner_text().replace("\u2028", "")
    assert page.locator("#models tbody th").first.inner_text().startswith("</script><img")


@pytest.mark.browser
def test_failed_and_open_calls_are_marked_in_words(opened):
    spans = [
        span("r", 0, None, name="agent", kind=SpanKind.WORKFLOW, status=Status.INTERRUPTED),
        span(
            "x",
            1,
            5,
            "r",
            name="search",
            kind=SpanKind.TOOL,
            status=Status.ERROR,
            error=SpanError("E", "went wrong"),
        ),
    ]
    page = opened(profile(spans))
    assert "✕ open" in page.locator("#calls tr").nth(0).inner_text()
    assert "✕ error" in page.locator("#calls tr").nth(1).inner_text()
    assert "went wrong" in page.locator("#details").inner_text()
    assert "has not ended" in page.locator("#shown").inner_text()


@pytest.mark.browser
def test_a_request_of_thousands_of_calls_shows_the_first_and_then_all(opened):
    spans = [span("r", 0, 10_000, name="agent")]
    spans += [span(f"c{i}", i, i + 1, f"c{i - 1}" if i % 2 else "r", name=f"call {i}") for i in range(3000)]
    page = opened(profile(spans))
    assert page.locator("#calls tr").count() == 400
    page.get_by_role("button", name="Show 2,601 more calls").click()
    assert page.locator("#calls tr").count() == 3001


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(opened, many, scheme):
    """WCAG AA: 4.5 to 1 for ink, muted text and red on what they stand on."""
    page = opened(many, color_scheme=scheme)
    value = "name => getComputedStyle(document.documentElement).getPropertyValue(name).trim()"
    colour = {
        name: page.evaluate(value, f"--{name}") for name in ("ink", "muted", "bad", "bg", "surface", "soft")
    }

    def luminance(code):
        parts = [int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    for text in ("ink", "muted", "bad"):
        for ground in ("bg", "surface", "soft"):
            dark, light = sorted((luminance(colour[text]), luminance(colour[ground])))
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)


@pytest.mark.browser
def test_a_narrow_screen_does_not_scroll_sideways(opened, many):
    page = opened(many, evaluation(many))
    page.set_viewport_size({"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


@pytest.mark.browser
@pytest.mark.parametrize("width", [420, 1200])
def test_captions_wrap_inside_what_is_seen(opened, many, width):
    page = opened(many, evaluation(many))
    page.set_viewport_size({"width": width, "height": 900})
    beyond = """() => [...document.querySelectorAll("caption")].filter((caption) => {
        const text = document.createRange(), seen = caption.closest(".scroll");
        text.selectNodeContents(caption);
        return seen && text.getBoundingClientRect().right > seen.getBoundingClientRect().right + 1;
    }).map((caption) => caption.textContent)"""
    assert page.evaluate("document.querySelectorAll('#scores .scroll caption').length") == 1
    assert page.evaluate(beyond) == []
