"""Embedders of a workflow file: over a real server and OpenAI's client, and without any model."""

import json
import math
import textwrap
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream import semconv
from millstream.errors import ConfigError, WorkflowError
from millstream.span import SpanKind
from millstream.workflow import Builder, load_config
from millstream.workflow.checks import check_config
from millstream.workflow.explain import explain
from millstream.workflow.hashed_words import vector_of

TEXTS = ["mills grind corn", "streams turn wheels", "corn is ground in mills"]


@pytest.fixture
async def embedders(write, base_url):
    """Gives the embedder of an entry."""
    builders = []

    def embedder(entry, **keys):
        lines = {"base_url": base_url, "api_key": "the-key", **keys} if entry != "hash" else keys
        options = "".join(f", {key}: {json.dumps(value)}" for key, value in lines.items())
        builders.append(Builder(load_config(write(f"embedders: {{main: {{_type: {entry}{options}}}}}"))))
        return builders[-1].get_embedder("main")

    yield embedder
    for builder in builders:
        await builder.aclose()


async def test_an_embedder_of_a_server_is_recorded_once_a_call(embedders, spans):
    embedder = await embedders("openai", model_name="able", dimensions=64, batch_size=2)
    vectors = await embedder.aembed_documents(TEXTS)
    assert [len(vector) for vector in vectors] == [64] * 3
    one = await embedder.aembed_query(TEXTS[0])
    assert one == pytest.approx(vectors[0])
    assert embedder.embed_documents(TEXTS) == vectors
    assert embedder.embed_query(TEXTS[0]) == one
    recorded = spans()
    assert [span.kind for span in recorded] == [SpanKind.EMBEDDING] * 4
    documents, query, *_ = recorded
    assert documents.name == documents.attributes[semconv.REQUEST_MODEL] == "able"
    assert documents.input == TEXTS
    assert documents.output == {"count": 3, "dimensions": 64}
    assert documents.usage.input_tokens > query.usage.input_tokens > 0


async def test_no_texts_are_no_request(embedders):
    assert await (await embedders("openai", model_name="able")).aembed_documents([]) == []


async def test_a_server_that_is_down_is_said_with_the_embedder(embedders):
    embedder = await embedders("openai", model_name="able", base_url="http://127.0.0.1:9/v1", max_retries=0)
    with pytest.raises(Exception, match="Connection") as raised:
        await embedder.aembed_query("x")
    assert "no model server answers at http://127.0.0.1:9/v1" in explain(raised.value)
    assert "correct embedders.main.base_url" in explain(raised.value)


class Server(BaseHTTPRequestHandler):
    """Gives one vector, whatever is asked, and keeps what was asked."""

    asked: list = []

    def do_POST(self):
        self.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        data = [{"object": "embedding", "index": 0, "embedding": [1.0, 0.0]}]
        body = json.dumps({"object": "list", "model": "m", "data": data}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        """Say nothing."""


@pytest.fixture
def one_vector():
    """Base URL of a server that always gives one vector."""
    Server.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


async def test_a_server_that_gives_too_few_vectors_is_not_believed(embedders, one_vector):
    embedder = await embedders("openai", model_name="m", base_url=one_vector)
    with pytest.raises(WorkflowError, match=r"embedders\.main: the server gave 1 vectors for 2 texts"):
        await embedder.aembed_documents(["a", "b"])


async def test_nim_tells_questions_from_passages(embedders, one_vector):
    embedder = await embedders("nim", model_name="m", base_url=one_vector)
    await embedder.aembed_query("what is it")
    await embedder.aembed_documents(["it is this"])
    assert [asked["input_type"] for asked in Server.asked] == ["query", "passage"]
    assert "input_type" not in (await embedders("openai", model_name="m"))._for("query", {})


async def test_hashed_words_are_near_what_is_written_alike(embedders, spans):
    embedder = await embedders("hash", dimensions=512)
    corn, wheels, ground = await embedder.aembed_documents(TEXTS)
    query = await embedder.aembed_query("Grinding CORN in a mill")
    assert _dot(query, ground) > _dot(query, wheels) + 0.2
    assert embedder.embed_query(TEXTS[0]) == corn == embedder.embed_documents(TEXTS)[0]
    assert [(span.kind, span.name) for span in spans()][:2] == [(SpanKind.EMBEDDING, "hash-512")] * 2


def _dot(left, right):
    return sum(a * b for a, b in zip(left, right, strict=True))


@given(st.text(), st.sampled_from([8, 100, 1024]))
def test_a_vector_has_length_one_or_there_is_no_word(text, dimensions):
    vector = vector_of(text, dimensions)
    assert len(vector) == dimensions
    assert vector == vector_of(text, dimensions)
    length = math.hypot(*vector)
    assert math.isclose(length, 1, rel_tol=1e-5) or length == 0


def test_hashed_words_are_the_same_on_every_machine():
    vector = vector_of("mills", 8)
    assert vector == pytest.approx(vector_of("MILLS", 8))
    assert [round(value, 4) for value in vector] == [0.5912, 0.2956, -0.6897, 0.2956, 0, 0, 0, 0]


REFERENCES = """
from millstream.workflow import EmbedderRef, FunctionBaseConfig, register_function

class LookUpConfig(FunctionBaseConfig, name="look_up"):
    embedder_name: str
    second: EmbedderRef | None = None

@register_function(config_type=LookUpConfig)
async def look_up(config, builder):
    embedder = await builder.get_embedder(config.embedder_name)
    async def nearest(text: str) -> int:
        return len(await embedder.aembed_query(text))
    yield nearest
"""


def test_validate_checks_embedders_and_who_names_them(write):
    path = write(
        textwrap.dedent("""
        general: {modules: [parts.py]}
        embedders:
          main: {_type: hash, dimension: 3}
          far: {_type: openai, model_name: text-embedding-3-small}
          odd: {_type: hasch}
        functions:
          one: {_type: look_up, embedder_name: mian, second: fare}
        """),
        parts=REFERENCES,
    )
    with pytest.raises(ConfigError) as raised:
        check_config(load_config(path))
    problems = str(raised.value).splitlines()
    assert problems[0].startswith("embedders.main.dimension: unknown key; did you mean 'dimensions'")
    assert problems[1].startswith(
        "embedders.far: api.openai.com needs an API key; set the environment variable"
    )
    assert problems[2].startswith("embedders.odd: unknown _type 'hasch'; did you mean 'hash'")
    assert problems[3].startswith(
        "functions.one.embedder_name: there is no embedders.mian; did you mean 'main'"
    )
    assert problems[4].startswith("functions.one.second: there is no embedders.fare; did you mean 'far'")


async def test_an_unknown_embedder_and_framework(write):
    builder = Builder(load_config(write("embedders: {main: {_type: hash}}")))
    with pytest.raises(ConfigError, match=r"there is no embedders\.mainn; did you mean 'main'"):
        await builder.get_embedder("mainn")
    with pytest.raises(ConfigError, match=r"get_embedder with wrapper_type 'crewai' is not in this version"):
        await builder.get_embedder("main", wrapper_type="crewai")
    assert await builder.get_embedder("main") is await builder.get_embedder("main")


async def test_an_embedder_of_another_package(write, tmp_path, monkeypatch):
    package = tmp_path / "site"
    (package / "other-1.dist-info").mkdir(parents=True)
    (package / "other-1.dist-info" / "METADATA").write_text("Name: other\nVersion: 1\n")
    (package / "other-1.dist-info" / "entry_points.txt").write_text(
        "[millstream.embedders]\nones = other_embedder:make\n"
    )
    (package / "other_embedder.py").write_text("def make(size):\n    return [1.0] * size\n")
    monkeypatch.syspath_prepend(str(package))
    builder = Builder(
        load_config(write("embedders: {main: {_type: ones, size: 2}, bad: {_type: ones, x: 1}}"))
    )
    assert await builder.get_embedder("main") == [1.0, 1.0]
    with pytest.raises(ConfigError, match=r"embedders\.bad: ones refuses these keys"):
        await builder.get_embedder("bad")
