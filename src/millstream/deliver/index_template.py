"""The index template of the spans, and how an index is made ready; decision 17 says why."""

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal
from urllib.parse import quote

import msgspec

from millstream.deliver.http import HttpClient
from millstream.errors import ConfigError, UnreachableError

Product = Literal["elasticsearch", "opensearch"]
SEARCH_SERVER: Final = "the search server"
"""What it is called until it has said what it is."""
PRIORITY: Final = 120
"""Above the templates that servers bring for all of `logs-*-*`, below those that users write."""
TIMESTAMP: Final = {"type": "date", "format": "strict_date_optional_time||epoch_millis"}
KEYWORD: Final = {"type": "keyword", "ignore_above": 1024}
UNINDEXED: Final = {"type": "object", "enabled": False}
"""Holds any JSON, also what is no object, and is never looked at."""
_REFUSED: Final = frozenset({400, 403, 404, 405, 410})
"""Statuses of a request that can be done without."""
_HEALTH_TIMEOUT: Final = 408
_HEALTH_WAIT_S: Final = 3
_LONGEST_INDEX: Final = 255
_UNFIT: Final = frozenset('\\/*?"<>| ,#:')


def checked_index(index: str) -> str:
    """The name of an index, an alias or a data stream.

    Raises:
        ConfigError: no server would take it.
    """
    if (
        not isinstance(index, str)
        or not index
        or index != index.lower()
        or index[0] in "-_+"
        or index in {".", ".."}
        or len(index.encode()) > _LONGEST_INDEX
        or _UNFIT.intersection(index)
    ):
        raise ConfigError(
            f"`index` {index!r} is no name of an index: it is lower case, without spaces and the characters "
            '\\ / * ? " < > | , # : and does not begin with - _ or +'
        )
    return index


def span_mapping(product: Product) -> dict[str, Any]:
    """What is indexed of a span's document. What is not named here is kept and not indexed."""
    attributes: dict[str, Any] = (
        {"type": "flat_object"} if product == "opensearch" else {"type": "flattened", "ignore_above": 1024}
    )
    return {
        "dynamic": False,
        "properties": {
            "@timestamp": TIMESTAMP,
            "timestamp": TIMESTAMP,
            "trace_id": KEYWORD,
            "span_id": KEYWORD,
            "parent_id": KEYWORD,
            "name": KEYWORD,
            "kind": KEYWORD,
            "status": KEYWORD,
            "workload_id": KEYWORD,
            "model": KEYWORD,
            "start_ns": {"type": "long"},
            "end_ns": {"type": "long"},
            "duration_s": {"type": "double"},
            "error": {"properties": {"type": KEYWORD, "message": {"type": "text"}}},
            "usage": {
                "properties": {
                    name: {"type": "long"}
                    for name in ("input_tokens", "output_tokens", "cache_read_tokens", "reasoning_tokens")
                }
            },
            "attributes": attributes,
            "other_attributes": UNINDEXED,
            "input": UNINDEXED,
            "output": UNINDEXED,
            "events": UNINDEXED,
            "links": UNINDEXED,
            "unparsed": UNINDEXED,
        },
    }


def prepare(client: HttpClient, index: str, mapping: Callable[[Product], Mapping[str, Any]]) -> str:
    """Install a template for `index`, create it if it is not there, and wait a little until it is healthy.

    What the user may not do, or has made in another way, is left as it is.

    Args:
        client: to the server.
        index: a name that `checked_index` gave.
        mapping: of the index; is told what the server is.

    Returns:
        What the server would not do, for people; empty where all is well.

    Raises:
        UnreachableError: the server does not answer, or the index is not healthy.
        RefusedError: the server takes none of our requests.
    """
    body = {
        # A number or date that is none must not cost the document.
        "settings": {"index.mapping.ignore_malformed": True},
        "mappings": mapping(_product(client)),
    }
    template = {
        "index_patterns": [index],
        "priority": PRIORITY,
        "template": body,
        "_meta": {"made_by": "millstream"},
    }
    path = quote(index, safe="")
    installed = _put(client, f"/_index_template/millstream-{path}", template)
    created = _put(client, f"/{path}", body if installed else {})
    if created is None or "exists" in created:
        _wait_until_healthy(client, index)
        return ""
    return "" if installed is None else created


def _product(client: HttpClient) -> Product:
    """What the server is, which the client calls it from then on; one that does not say may be OpenSearch."""
    answer = client.request("GET", "/", passed=_REFUSED)
    if "x-elastic-product" in answer.headers:
        client.name = "Elasticsearch"
        return "elasticsearch"
    if b'"opensearch"' in answer.body:  # as its `distribution`
        client.name = "OpenSearch"
    return "opensearch"


def _put(client: HttpClient, path: str, body: Mapping[str, Any]) -> str | None:
    """`None` where it was done, else the server's reason."""
    answer = client.request(
        "PUT", path, msgspec.json.encode(body), {"content-type": "application/json"}, passed=_REFUSED
    )
    return None if answer.status in range(200, 300) else f"{answer.status} {client.reason_of(answer)}"


def _wait_until_healthy(client: HttpClient, index: str) -> None:
    path = f"/_cluster/health/{quote(index, safe='')}?wait_for_status=yellow&timeout={_HEALTH_WAIT_S}s"
    answer = client.request("GET", path, passed=_REFUSED | {_HEALTH_TIMEOUT})
    if answer.status != _HEALTH_TIMEOUT:
        return
    raise UnreachableError(f"{client.subject} answers, but cannot write to index {index!r} yet: it is red")
