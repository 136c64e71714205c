"""A profile of a realistic set of runs, made once."""

import csv
import os
import shutil
from pathlib import Path

import pytest

from millstream.profiler import profile
from millstream.profiler.renderers.html import write
from tests.profiler.profiler_synthetic import runs


@pytest.fixture(scope="session")
def many_spans():
    return list(runs(60, seed=3))


@pytest.fixture(scope="session")
def many(many_spans):
    found = profile(many_spans)
    assert found.failures == {}
    return found


@pytest.fixture(autouse=True)
def csv_fields_of_any_length():
    """The limit is one for the whole process."""
    before = csv.field_size_limit(10**9)
    yield
    csv.field_size_limit(before)


@pytest.fixture(scope="module")
def browser():
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
    if not Path(chromium).exists():
        message = "there is no Chromium on this machine (CHROMIUM names another path)"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def opened(browser, tmp_path):
    """A function that opens a profile's report, and fails the test for any request or console message."""
    troubles = []
    pages = []

    def open_report(found, summary=None, **context):
        path = tmp_path / "report.html"
        write(found, path, summary)
        page = browser.new_page(viewport={"width": 1280, "height": 900}, **context)
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on(
            "request", lambda request: None if request.url == path.as_uri() else troubles.append(request.url)
        )
        page.goto(path.as_uri())
        page.wait_for_selector('#timeline[data-ready="1"]')
        pages.append(page)
        return page

    yield open_report
    for page in pages:
        page.close()
    assert troubles == []
