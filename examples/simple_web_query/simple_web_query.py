"""The tool `webpage_query`: passages of web pages that fit a question."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

from pydantic import Field
from web_pages import Page, PageError, load_pages, serving

from millstream import Builder, FunctionBaseConfig, FunctionInfo, LLMFrameworkEnum, register_function
from millstream.errors import ConfigError
from millstream.workflow import EmbedderRef
from millstream.workflow.documents import split

SITE = Path(__file__).parent / "site"


class WebQueryToolConfig(FunctionBaseConfig, name="webpage_query"):
    """Options of the tool.

    Attributes:
        webpage_url: the page to begin with; when empty, the example serves its own pages.
        max_pages: pages of that server that are read, at most, following links.
        description: what can be looked up, for the model.
        embedder_name: what makes vectors; a key under `embedders`.
        chunk_size: characters of a passage, at most.
        top_k: passages that a question gets.
    """

    webpage_url: str = ""
    max_pages: Annotated[int, Field(ge=1)] = 10
    description: str
    embedder_name: EmbedderRef
    chunk_size: Annotated[int, Field(ge=50)] = 250
    top_k: Annotated[int, Field(ge=1)] = 2


@register_function(config_type=WebQueryToolConfig, framework_wrappers=[LLMFrameworkEnum.LANGCHAIN])
async def webquery_tool(config: WebQueryToolConfig, builder: Builder) -> AsyncIterator[FunctionInfo]:
    """Reads the pages once, splits and embeds them; each call then retrieves the nearest passages."""
    from langchain_core.vectorstores import InMemoryVectorStore  # noqa: PLC0415  # slow to import

    try:
        pages = await asyncio.to_thread(read_pages, config.webpage_url, config.max_pages)
    except PageError as error:
        raise ConfigError(f"functions.{config.component_name}.webpage_url: {error}") from error
    passages = [(text, page.url) for page in pages for text in split(page.text, config.chunk_size, 0)]
    store = InMemoryVectorStore(await builder.get_embedder(config.embedder_name))
    await store.aadd_texts([text for text, _ in passages], [{"source": url} for _, url in passages])
    retriever = store.as_retriever(search_kwargs={"k": config.top_k})

    async def query(query: Annotated[str, "what to look up, as a question"]) -> str:
        found = await retriever.ainvoke(query)
        return "\n\n".join(f"[{document.metadata['source']}]\n{document.page_content}" for document in found)

    yield FunctionInfo.from_fn(query, description=config.description)


def read_pages(url: str, max_pages: int) -> list[Page]:
    """The pages from this address on, or the example's own; those have the same addresses in every run."""
    if url:
        return load_pages(url, max_pages)
    with serving(SITE) as here:
        pages = load_pages(f"{here}index.html", max_pages)
    return [page._replace(url=page.url.removeprefix(here)) for page in pages]
