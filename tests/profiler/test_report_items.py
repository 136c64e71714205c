"""The items of an evaluation in report.html: order, filter, and the panel of one item, in a real browser."""

import pytest

from millstream.profiler import profile
from millstream.profiler.config import ProfilerConfig
from millstream.profiler.renderers.html import render
from millstream.profiler.renderers.items import MAX_ITEMS
from millstream.profiler.results import EvaluationSummary, ItemSummary, ScoreSummary
from millstream.span import SpanKind, Usage
from tests.profiler.profiler_synthetic import span
from tests.profiler.test_profiler_report import HOSTILE, text_of

SCORES = [
    ScoreSummary("right", 0.5, 5, 1),
    ScoreSummary("judge.near", 0.5, 5, 1),
    ScoreSummary(
        "judge.tone.polite", 0.5, 5, 1, category=True, note="5 items: too few for an interval that holds"
    ),
    ScoreSummary("seconds", 2.0, 6, 0, unit="s", lower_is_better=True),
]


def item(name, right, judge, seconds, **more):
    return ItemSummary(
        name,
        1,
        more.pop("trace", None),
        f"What of {name}?",
        "yes",
        more.pop("answer", f"answer of {name}"),
        scores={"right": right, "judge": judge, "seconds": seconds},
        reasons={"judge": f"because of {name}"},
        runtime_s=seconds,
        **more,
    )


def evaluation(found):
    """Six items of which the last three went wrong, each in its own way."""
    traces = found.order
    items = [
        item("a", 1.0, {"near": 0.9, "tone": "polite"}, 1.0, trace=traces[0]),
        item("b", 1.0, {"near": 0.4, "tone": "rude"}, 9.0, trace=traces[1]),
        item("c", 1.0, {"near": 0.7, "tone": "polite"}, 3.0),
        item("low", 0.0, {"near": 0.1, "tone": "rude"}, 2.0, trace=traces[3]),
        item("lost", 1.0, None, 2.5, trace=traces[4]),
        item("gone", 0.0, 0.0, 0.5, trace=traces[5], answer=None, error="TimeoutError: 30 s"),
    ]
    return EvaluationSummary(
        "six items", SCORES, items, 1, [5, 4, 3, 1, 2, 0],
        slices=[
            ScoreSummary("right", 0.5, 2, slice="lang = en"),
            ScoreSummary("right", 1.0, 4, slice="lang = <b>"),
        ],
        slices_note="2 slices were looked at.", level=0.9,
    )  # fmt: skip


def names(page):
    return page.locator("#item-rows tr:not([hidden]) .open-item").all_inner_texts()


def test_the_table_is_there_without_a_script(many):
    page = render(many, evaluation(many))
    told = text_of(page, "items")
    assert "6 items, 1 failed; those with which most went wrong come first." in told
    assert told.index("What of gone?") < told.index("What of lost?") < told.index("What of low?")
    assert "✕ TimeoutError: 30 s" in told
    row = page.split("What of gone?")[1].split("</tr>")[0]
    assert '<td class="word">\N{EN DASH}</td>' in row, "what failed is in no category"
    assert 'class="bad">missing' in page.split("What of lost?")[1].split("</tr>")[0]


def test_scores_slices_notes_and_the_level_are_said(many):
    told = text_of(render(many, evaluation(many)), "scores")
    assert "their 90 % intervals" in told
    assert "judge.tone.polite share 5 items: too few for an interval that holds" in told
    assert "2 slices were looked at." in told
    assert "right lang = <b> 1 \N{EN DASH} 4" in told, "without an interval: one dash, not from dash to dash"


@pytest.mark.browser
def test_an_item_opens_by_keyboard_with_its_texts_reasons_and_timeline(opened, many):
    page = opened(many, evaluation(many))
    assert names(page) == ["gone", "lost", "low", "b", "c", "a"]
    button = page.get_by_role("button", name="low", exact=True)
    button.focus()
    page.keyboard.press("Enter")
    panel = page.get_by_role("region", name="Item low")
    assert panel.is_visible()
    assert button.get_attribute("aria-expanded") == "true"
    assert page.locator("#item-heading").evaluate("e => e === document.activeElement")
    told = panel.inner_text()
    for text in ("What of low?", "answer of low", "because of low", "rude", "no reason given", many.order[3]):
        assert text in told
    calls = sum(one.trace_id == many.order[3] for one in many.table.spans)
    assert page.locator("#item-flame button").count() == calls
    page.locator("#item-flame button").first.focus()
    page.keyboard.press("ArrowDown")
    assert page.locator("#item-flame button[aria-current]").evaluate("e => e === document.activeElement")
    assert "starts at +" in page.locator("#item-call").inner_text()
    page.keyboard.press("Escape")
    assert panel.is_hidden()
    assert button.evaluate("e => e === document.activeElement")
    assert button.get_attribute("aria-expanded") == "false"


@pytest.mark.browser
def test_next_and_previous_go_through_what_is_shown(opened, many):
    page = opened(many, evaluation(many))
    page.locator("#item-rows tr").first.click()
    assert page.locator("#item-heading").inner_text() == "Item gone: failed"
    assert "TimeoutError: 30 s" in page.locator("#item-told .error").inner_text()
    assert page.locator("#item-previous").is_disabled()
    page.locator("#item-next").click()
    assert page.locator("#item-heading").inner_text() == "Item lost: a score is missing"
    page.get_by_label("failed or missing only").check()
    assert page.locator("#item-next").is_disabled()
    page.get_by_role("button", name="Show all").click()
    page.locator("#item-next").click()
    page.locator("#item-next").click()
    page.locator("#item-next").click()
    assert page.locator("#item-heading").inner_text() == "Item c"
    assert "not asked in this run" in page.locator("#item-no-timeline").inner_text()
    assert page.locator("#item-timeline").is_hidden()


@pytest.mark.browser
def test_the_filter(opened, many):
    page = opened(many, evaluation(many))
    status = page.locator("#items-shown")
    assert status.inner_text() == "6 items shown."
    page.get_by_label("Text in an item").fill("BECAUSE of lo")
    assert names(page) == ["lost", "low"]
    assert status.inner_text() == "2 of 6 items shown."
    page.get_by_label("Text in an item").fill("rude")
    assert names(page) == ["low", "b"]
    page.get_by_role("button", name="Show all").click()
    page.get_by_label("Score", exact=True).select_option(label="judge.near")
    page.get_by_label("below").fill("0.5")
    assert names(page) == ["gone", "low", "b"]
    page.get_by_label("Score", exact=True).select_option(label="seconds")
    page.get_by_label("above").fill("2")
    assert names(page) == ["lost", "b", "c"]
    page.get_by_role("button", name="Show all").click()
    page.get_by_label("failed or missing only").check()
    assert names(page) == ["gone", "lost"]
    assert page.get_by_label("Score", exact=True).evaluate("e => [...e.options].map(o => o.text)") == [
        "any",
        "right",
        "judge.near",
        "seconds",
    ]


@pytest.mark.browser
def test_a_heading_sorts_and_says_so(opened, many):
    page = opened(many, evaluation(many))

    def press(name):
        head = page.locator("#items").get_by_role("columnheader", name=name)
        head.get_by_role("button").press("Enter")
        return head.get_attribute("aria-sort"), names(page)

    assert page.get_by_role("columnheader", name="Worst").get_attribute("aria-sort") == "ascending"
    assert press("judge.near") == ("ascending", ["gone", "low", "b", "c", "a", "lost"])
    assert press("judge.near") == ("descending", ["a", "c", "b", "low", "gone", "lost"])
    assert page.get_by_role("columnheader", name="Worst").get_attribute("aria-sort") == "none"
    assert press("seconds") == ("descending", ["b", "c", "lost", "low", "a", "gone"])
    assert press("Item") == ("ascending", ["a", "b", "c", "gone", "lost", "low"])
    assert press("Worst") == ("ascending", ["gone", "lost", "low", "b", "c", "a"])


@pytest.mark.browser
def test_cost_and_tokens_of_an_item_are_known(opened):
    spans = [
        span("r", 0, 100, kind=SpanKind.WORKFLOW, trace_id="t"),
        span("c", 10, 50, "r", kind=SpanKind.LLM, trace_id="t", attributes={"gen_ai.request.model": "m"},
             usage=Usage(input_tokens=3, output_tokens=5)),
    ]  # fmt: skip
    prices = {"currency": "USD", "date": "2026-01-01", "models": {"m": {"input": 1e6, "output": 2e6}}}
    found = profile(spans, ProfilerConfig(prices=prices))
    page = opened(found, EvaluationSummary("one", SCORES[:1], [item("a", 1.0, None, 1.0, trace="t")]))
    page.get_by_role("button", name="a", exact=True).click()
    told = " ".join(page.locator("#item-told dl").inner_text().split())
    assert "Time 1.00 s Cost 13 USD Tokens 3 in, 5 out Trace t" in told


@pytest.mark.browser
def test_calls_that_were_counted_are_told_in_their_words(opened, many):
    one = item("a", 1.0, None, 1.0, trace=many.order[0], calls="2 calls, 0.01 USD", judges="1 call <b>")
    page = opened(many, EvaluationSummary("one", SCORES[:1], [one]))
    page.get_by_role("button", name="a", exact=True).click()
    told = " ".join(page.locator("#item-told dl").inner_text().split())
    assert "Model calls 2 calls, 0.01 USD Judges 1 call <b> Trace" in told
    assert "Tokens" not in told


@pytest.mark.browser
def test_hostile_items_are_inert_and_shown(opened, many):
    one = ItemSummary(
        HOSTILE, 1, many.order[0], HOSTILE, HOSTILE, HOSTILE, HOSTILE, {HOSTILE: HOSTILE}, {HOSTILE: HOSTILE}
    )
    page = opened(many, EvaluationSummary(HOSTILE, [ScoreSummary(HOSTILE, 1.0, 1, note=HOSTILE)], [one]))
    page.locator(".open-item").click()
    assert page.evaluate("window.hacked") is None
    assert page.locator("#item-told pre").first.text_content() == HOSTILE
    assert page.locator("#item-told td.reason").text_content() == HOSTILE
    assert page.locator("#items img").count() == 0


@pytest.mark.browser
def test_of_5000_items_the_2000_worst_are_there_without_lag(opened, many):
    items = [
        ItemSummary(f"item {n}", 1, many.order[n % 60], "question " * 30, "yes", "answer " * 30, None,
                    {"right": n / 5000, "near": 1.0}, {"right": f"reason {n} " * 10})
        for n in range(5000)
    ]  # fmt: skip
    page = opened(many, EvaluationSummary("many", SCORES[:1], items, 0, list(range(4999, -1, -1))))
    assert page.locator("#item-rows tr").count() == MAX_ITEMS
    assert page.locator(".open-item").first.inner_text() == "item 4999"
    assert "5,000 items, 0 failed" in page.locator("#items").inner_text()
    assert "The 2,000 worst are here" in page.locator("#items").inner_text()
    assert "2,000 items, the first 200 shown." in page.locator("#items-shown").inner_text()
    took_ms = page.evaluate(LAID_OUT)
    assert max(took_ms) < 1000, took_ms
    assert len(names(page)) == 200
    page.get_by_role("button", name="Show more").click()
    assert len(names(page)) == 400
    page.locator("#items .items").evaluate("e => e.scrollTo(0, e.scrollHeight)")
    page.wait_for_function("document.querySelectorAll('#item-rows tr:not([hidden])').length === 600")
    page.get_by_label("Text in an item").fill("item 3500")
    assert names(page) == ["item 3500"]


LAID_OUT = """() => {
    const laid = (act) => {
        const began = performance.now();
        act();
        document.body.offsetHeight;
        return performance.now() - began;
    };
    const press = (what) => laid(() => document.querySelector(what).click());
    const text = document.getElementById("item-text");
    const type = (value) => laid(() => {
        text.value = value;
        text.dispatchEvent(new Event("input", {bubbles: true}));
    });
    const last = '#item-rows tr:nth-child(150) .open-item';
    return [type("reason 49"), type(""), press('[data-by="0"] button'), press(last), press("#item-next")];
}"""
"""How long the page needs to filter, sort, open an item and go to the next, in ms."""
