"""`vector_retriever`: documents on disk, an embedder, an index that is kept as long as nothing changed."""

import json
import logging

import pytest

from millstream.errors import ConfigError, InputError
from millstream.span import SpanKind
from millstream.workflow import load_config, open_workflow
from millstream.workflow.checks import check_config

WORKFLOW = """
embedders:
  near: {_type: hash}
  served: {_type: openai, model_name: able, base_url: $URL, api_key: the-key}
functions:
  notes: {_type: vector_retriever, documents: 'docs/*.md', embedder_name: near, top_k: 2, chunk_size: 40,
          chunk_overlap: 0, index_dir: index, description: Knows about mills.}
workflow: {_type: vector_retriever, documents: ['docs/*.md'], embedder_name: near, top_k: 1, chunk_size: 80,
           chunk_overlap: 0}
"""


@pytest.fixture
def flow(write, tmp_path, monkeypatch, base_url):
    """Writes a workflow file beside three documents."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("Mills grind corn. Bakers bake the flour into bread.")
    (tmp_path / "docs" / "b.md").write_text("Streams turn the wheels of mills.")
    return lambda text=WORKFLOW: write(text.replace("$URL", base_url))


async def ask(path, question, function="notes"):
    async with open_workflow(load_config(path)) as workflow:
        return await (await workflow.builder.get_function(function))(question)


def embedded(spans):
    """How many texts were made vectors of, call by call."""
    return [
        len(span.input) if isinstance(span.input, list) else 1
        for span in spans()
        if span.kind is SpanKind.EMBEDDING
    ]


async def test_the_nearest_chunks_come_with_source_and_score(flow, spans):
    found = await ask(flow(), "what turns a wheel?")
    assert found[0]["content"] == "Streams turn the wheels of mills."
    assert found[0]["metadata"] == {"source": "docs/b.md"}
    assert 1 > found[0]["score"] > found[1]["score"]
    by_id = {span.span_id: span for span in spans()}
    (retriever,) = [span for span in by_id.values() if span.kind is SpanKind.RETRIEVER]
    assert retriever.input == "what turns a wheel?"
    assert retriever.output == found
    assert retriever.workload_id == "notes"
    function = by_id[retriever.parent_id]
    assert (function.kind, function.name) == (SpanKind.FUNCTION, "notes")
    query = [span for span in by_id.values() if span.parent_id == retriever.span_id]
    assert [(span.kind, span.input) for span in query] == [(SpanKind.EMBEDDING, "what turns a wheel?")]


async def test_a_retriever_is_a_workflow_and_a_tool(flow, llms):
    path = flow(WORKFLOW + "\n" + llms)
    async with open_workflow(load_config(path)) as workflow:
        (document,) = await workflow.run("who bakes bread?")
        assert document["metadata"]["source"] == "docs/a.md"
        (tool,) = await workflow.builder.get_tools(["notes"])
        assert tool.description == "Knows about mills."
        message = await tool.ainvoke(
            {"type": "tool_call", "id": "1", "name": "notes", "args": {"query": "bakers bake"}}
        )
        assert json.loads(message.content)[0]["content"] == "Bakers bake the flour into bread."


async def test_the_index_is_kept_until_something_changed(flow, spans, tmp_path):
    path = flow()
    await ask(path, "corn")
    await ask(path, "corn")
    assert embedded(spans).count(3) == 1, "an index that is as it was is not built again"
    (tmp_path / "docs" / "c.md").write_text("Millers live in mills.")
    assert (await ask(path, "where do millers live"))[0]["metadata"]["source"] == "docs/c.md"
    assert embedded(spans).count(4) == 1
    path.write_text(path.read_text().replace("near: {_type: hash}", "near: {_type: hash, dimensions: 64}"))
    await ask(path, "corn")
    assert embedded(spans).count(4) == 2


async def test_an_index_is_not_built_again_for_another_address_of_this_machine(flow, spans, base_url):
    path = flow(WORKFLOW.replace("embedder_name: near, top_k: 2", "embedder_name: served, top_k: 2"))
    await ask(path, "corn")
    path.write_text(path.read_text().replace("127.0.0.1", "localhost"))
    assert (await ask(path, "Mills grind corn."))[0]["content"] == "Mills grind corn."
    assert embedded(spans).count(3) == 1


async def test_a_torn_index_is_told_and_built_again(flow, tmp_path, caplog, spans):
    path = flow()
    await ask(path, "corn")
    (vectors,) = (tmp_path / "index").glob("*.npy")
    vectors.write_bytes(vectors.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING):
        assert len(await ask(path, "corn")) == 2
    assert "the index is damaged" in caplog.text
    assert "built again now" in caplog.text
    assert embedded(spans).count(3) == 2


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("'docs/*.md'", "'docs/*.txt'", r"functions\.notes\.documents: 'docs/\*\.txt' names no file in"),
        (
            "chunk_overlap: 0",
            "chunk_overlap: 40",
            r"functions\.notes\.chunk_overlap: must be less than chunk_",
        ),
        (
            "embedder_name: near",
            "embedder_name: nera",
            r"functions\.notes\.embedder_name: there is no embedders",
        ),
    ],
)
def test_validate_says_what_is_wrong(flow, before, after, message):
    with pytest.raises(ConfigError, match=message):
        check_config(load_config(flow(WORKFLOW.replace(before, after, 1))))


async def test_documents_without_text_are_told(flow, tmp_path):
    for path in (tmp_path / "docs").iterdir():
        path.write_text(" \n")
    with pytest.raises(InputError, match=r"there is no text in the documents"):
        await ask(flow(), "corn")
