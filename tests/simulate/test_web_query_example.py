"""examples/simple_web_query: its pages and its tool, and the evaluation of the seed on it."""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

import pytest
import yaml

from millstream.workflow.modules import import_module
from tests.simulate.process import running

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "simple_web_query"
needs_ragas = pytest.mark.skipif(
    find_spec("ragas") is None, reason="ragas is not installed: it has the environment .venv-ragas"
)


@pytest.fixture(scope="module")
def web():
    return import_module("web_pages.py", EXAMPLE, where="test")


@contextmanager
def answering(answer):
    """A server that answers every path by a function of the handler."""

    class Handler(BaseHTTPRequestHandler):
        do_GET = answer  # noqa: N815  # its name in the standard library

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def send(handler, body, kind="text/html; charset=utf-8", status=200, **headers):
    handler.send_response(status)
    for name, value in {"Content-Type": kind, **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def test_a_page_is_what_its_reader_sees(web):
    html = """<html><head><title>T</title><style>p {}</style></head><body><nav><a href="/a">A</a></nav>
      <h1>Head</h1><p>One <b>bold</b>
      word &amp; more.</p><script>if (a < b) { bad() }</script><p>Two<br>lines</p>
      <a href="b.html#part">B</a><footer>no</footer></body></html>"""
    page = web.page_of(html, "http://example.org/x/y.html")
    assert page.text == "Head\nOne bold word & more.\nTwo\nlines\nB"
    assert page.links == ["http://example.org/a", "http://example.org/x/b.html"]


def test_the_site_is_served_to_this_machine_and_read_by_its_links(web):
    with web.serving(EXAMPLE / "site") as url:
        assert url.startswith("http://127.0.0.1:")
        pages = web.load_pages(f"{url}index.html", 20)
        assert {page.url.removeprefix(url) for page in pages} == {
            path.name for path in (EXAMPLE / "site").iterdir()
        }
        assert len(web.load_pages(f"{url}index.html", 3)) == 3


def test_pages_of_other_servers_are_not_read(web):
    asked = []

    def other(handler):
        asked.append(handler.path)
        send(handler, b"secret")

    with answering(other) as elsewhere:

        def answer(handler):
            if handler.path == "/away":
                send(handler, b"", status=302, Location=f"{elsewhere}/redirected")
            else:
                send(handler, f'<a href="{elsewhere}/linked">x</a><a href="/away">y</a>'.encode())

        with answering(answer) as url:
            pages = web.load_pages(url, 10)
    assert [page.text for page in pages] == ["xy"]
    assert "/linked" not in asked


@pytest.mark.parametrize(
    "url", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:text/html,x", "/etc/hostname", ""]
)
def test_only_web_addresses_are_opened(web, url):
    with pytest.raises(web.PageError, match="only http and https"):
        web.fetch(url)


def test_a_redirect_does_not_lead_to_a_file(web, tmp_path):
    (tmp_path / "secret.html").write_text("secret")
    target = f"file://{tmp_path}/secret.html"
    with (
        answering(lambda handler: send(handler, b"", status=302, Location=target)) as url,
        pytest.raises(web.PageError),
    ):
        web.fetch(url)


def test_pages_are_bounded_in_size_and_time_and_kind(web):
    def drip(handler):
        handler.send_response(200)
        handler.send_header("Content-Type", "text/html")
        handler.end_headers()
        for _ in range(100):
            try:
                handler.wfile.write(b"x")
            except OSError:
                return
            time.sleep(0.1)

    with (
        answering(lambda handler: send(handler, b"x" * 5000)) as url,
        pytest.raises(web.PageError, match="longer"),
    ):
        web.fetch(url, max_bytes=4000)
    with answering(drip) as url, pytest.raises(web.PageError, match=r"did not come within 0\.5 s"):
        web.fetch(url, timeout_s=0.5)
    with (
        answering(lambda handler: send(handler, b"x", "image/png")) as url,
        pytest.raises(web.PageError, match="image/png, not a page"),
    ):
        web.fetch(url)
    with (
        answering(lambda handler: send(handler, b"x", status=404)) as url,
        pytest.raises(web.PageError, match="404"),
    ):
        web.fetch(url)


def command(server, *arguments, **environ):
    return subprocess.run(
        [sys.executable, "-m", "millstream", *arguments],
        cwd=ROOT,
        env={**os.environ, "OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "", **environ},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


CONFIG = ("--config_file", str(EXAMPLE / "config.yml"))


def test_the_agent_answers_from_the_pages_or_from_others(web, tmp_path):
    home = {"MILLSTREAM_HOME": str(tmp_path)}
    with running(EXAMPLE / "models.yml") as server:
        done = command(server, "run", *CONFIG, "--input", "What is a dataset made of?", **home)
        assert (done.returncode, done.stderr) == (0, "")
        assert "A dataset is a collection of examples, each with inputs and" in done.stdout
        (tmp_path / "mills.html").write_text("<h1>Mills</h1><p>A mill stream turns the wheel.</p>")
        with web.serving(tmp_path) as url:
            other = command(
                server, "run", *CONFIG, "--input", "What turns it?", WEBPAGE_URL=f"{url}mills.html", **home
            )
        assert "A mill stream turns the wheel." in other.stdout
        wrong = command(server, "run", *CONFIG, "--input", "x", WEBPAGE_URL="file:///etc/hostname", **home)
        assert wrong.returncode == 2
        assert "functions.webpage_query.webpage_url: file:///etc/hostname is not opened" in wrong.stderr


def test_the_section_is_that_of_the_seed():
    section = yaml.safe_load((EXAMPLE / "config.yml").read_text())["eval"]
    general, profiler = section["general"], section["general"].pop("profiler")
    general["dataset"].pop("file_path")
    assert general == {
        "output_dir": "./.tmp/eval/examples/simple_web_query/",
        "dataset": {"_type": "json"},
    }
    assert profiler == {
        "token_uniqueness_forecast": True,
        "workflow_runtime_forecast": True,
        "compute_llm_metrics": True,
        "csv_exclude_io_text": True,
        "prompt_caching_prefixes": {"enable": True, "min_frequency": 0.1},
        "bottleneck_analysis": {"enable_nested_stack": True},
        "concurrency_spike_analysis": {"enable": True, "spike_threshold": 7},
    }
    judge = "nim_rag_eval_llm"
    assert section["evaluators"] == {
        "rag_accuracy": {"_type": "ragas", "metric": "AnswerAccuracy", "llm_name": judge},
        "rag_groundedness": {"_type": "ragas", "metric": "ResponseGroundedness", "llm_name": judge},
        "rag_relevance": {"_type": "ragas", "metric": "ContextRelevance", "llm_name": judge},
        "trajectory_accuracy": {"_type": "trajectory", "llm_name": "nim_trajectory_eval_llm"},
    }


@needs_ragas
def test_the_four_evaluators_of_the_seed_and_its_profiler(tmp_path):
    out = tmp_path / "out"
    with running(EXAMPLE / "models.yml") as server:
        done = command(server, "eval", *CONFIG, "--json", "--override", "eval.general.output_dir", str(out))
        asked = server.stats()["models"]["meta/llama-3.3-70b-instruct"]["requests"]
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)["summary"]
    assert (summary["items"], summary["failures"], summary["llm_calls"]) == (12, [], 25)
    assert asked == 12 * (2 + 2 + 2 + 1)

    scores = {}
    for metric in summary["metrics"]:
        assert (metric["n"], metric["missing"]) == (12, 0)
        items = json.loads((out / f"{metric['name']}_output.json").read_text())["eval_output_items"]
        scores[metric["name"]] = {item["id"]: item["score"] for item in items}
    assert scores["rag_accuracy"]["1"] == 1
    assert scores["rag_accuracy"]["3"] == 0.5  # says more than the reference
    assert scores["rag_accuracy"]["6"] == 0  # the wrong passage
    assert scores["rag_groundedness"]["9"] == 0  # says what no page says
    assert scores["rag_groundedness"]["6"] == 1
    assert scores["trajectory_accuracy"]["12"] == 0.5  # looks up twice
    assert {0.5, 1} == set(scores["rag_relevance"].values())
    for name in (
        "inference_optimization.json",
        "standardized_data_all.csv",
        "report.html",
        "gantt_chart.png",
    ):
        assert (out / name).stat().st_size > 0


@pytest.mark.skipif(find_spec("ragas") is not None, reason="ragas is installed")
def test_without_ragas_the_evaluation_says_what_to_install(tmp_path):
    with running(EXAMPLE / "models.yml") as server:
        done = command(
            server, "eval", *CONFIG, "--override", "eval.general.output_dir", str(tmp_path / "out")
        )
    assert done.returncode == 4
    assert "eval.evaluators.rag_accuracy" in done.stderr
    assert "pip install 'millstream[ragas]'" in done.stderr
    assert not (tmp_path / "out").exists()
