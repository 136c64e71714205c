"""Model calls as flywheel records in Elasticsearch; `_type: data_flywheel_elasticsearch` in a workflow file.

The index is one of ours, which takes all that a record knows, or one that NVIDIA's Data Flywheel Blueprint
has made, which takes five fields and nothing else: `strict_mapping: true`.
"""

import logging
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec

from millstream.deliver.bulk import BulkIndex, Document
from millstream.deliver.flywheel_record import NoRecord, record_of
from millstream.deliver.http import HttpClient
from millstream.deliver.index_template import (
    KEYWORD,
    SEARCH_SERVER,
    TIMESTAMP,
    UNINDEXED,
    Product,
    checked_index,
)
from millstream.deliver.options import collected, raise_all
from millstream.deliver.sink import SKIPPED, Rejected, Result, Skipped
from millstream.errors import ConfigError
from millstream.span import Span, SpanKind

CONTRACT_VERSIONS: Final = ("1.0", "1.1")
DEFAULT_INDEX: Final = "flywheel"
_INDEX_VARIABLES: Final = ("ES_COLLECTION_NAME", "ELASTICSEARCH_INDEX")
_ELSE: Final = "name another `index`"
_STRICT: Final = f"if NVIDIA's Data Flywheel Blueprint made it, set `strict_mapping: true`, else {_ELSE}"
_encode: Final = msgspec.json.Encoder().encode
_log: Final = logging.getLogger("millstream")


class FlywheelSink:
    """Stores a record of each model call once, under the trace and span id.

    Args:
        client_id: whose deployment it is: the flywheel selects records by this and their workload. Else
            ELASTICSEARCH_CLIENT_ID.
        endpoint: URL of the server; may hold `user:password@`. Else ELASTICSEARCH_URL.
        index: index or alias. Else ES_COLLECTION_NAME, ELASTICSEARCH_INDEX, `flywheel`.
        username: with `password`. Without any credentials in the options: ELASTICSEARCH_API_KEY, else
            ELASTICSEARCH_USERNAME and ELASTICSEARCH_PASSWORD.
        password: else ELASTICSEARCH_PASSWORD.
        api_key: as the server shows it, in base 64 or as `id:key`.
        headers: sent with each request.
        ca_certs: a file or folder of certificates (PEM) to trust. Else ELASTICSEARCH_CA_CERTS.
        verify_certs: whether the server must prove who it is.
        ssl_assert_fingerprint: SHA-256 of the server's certificate or of its CA's; then nothing else counts.
        timeout: seconds to wait for an answer.
        contract_version: `1.0` or `1.1`, noted in each record.
        strict_mapping: write only what an index of the Blueprint takes, of calls that were answered.

    Attributes:
        skipped: how many model calls made no record, by reason.

    Raises:
        ConfigError: an option is wrong or missing; the server is not asked.
    """

    batch_size = 10

    def __init__(
        self,
        *,
        client_id: str | None = None,
        endpoint: str | None = None,
        index: str | None = None,
        username: str | None = None,
        password: str | None = None,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        ca_certs: str | None = None,
        verify_certs: bool = True,
        ssl_assert_fingerprint: str | None = None,
        timeout: Annotated[float, msgspec.Meta(gt=0)] = 30.0,
        contract_version: str | float = "1.1",
        strict_mapping: bool = False,
    ) -> None:
        problems: list[str] = []
        with collected(problems):
            self._client_id = client_id or _from_environment("client_id", "ELASTICSEARCH_CLIENT_ID")
        self._contract_version = str(contract_version)
        if self._contract_version not in CONTRACT_VERSIONS:
            known = ", ".join(CONTRACT_VERSIONS)
            problems.append(f"contract_version: {contract_version!r} is none of {known}")
        self._strict = strict_mapping
        index = index or _default_index()
        with collected(problems):
            checked_index(index)
        with collected(problems):
            endpoint = endpoint or _from_environment("endpoint", "ELASTICSEARCH_URL")
            username, password, api_key = _credentials(
                endpoint, username or None, password or None, api_key or None
            )
            client = HttpClient(
                endpoint,
                name=SEARCH_SERVER,
                extra="data-flywheel",
                username=username,
                password=password,
                api_key=api_key,
                headers=headers,
                ca_certs=ca_certs or os.environ.get("ELASTICSEARCH_CA_CERTS") or None,
                verify_certs=verify_certs,
                ssl_assert_fingerprint=ssl_assert_fingerprint,
                timeout_s=timeout,
            )
        raise_all(problems)
        self._summary = f"index {index!r} at {client.url}"
        self._bulk = BulkIndex(
            client, index, record_mapping, strict_hint=_ELSE if strict_mapping else _STRICT
        )
        self.skipped: Counter[str] = Counter()

    def summary(self) -> str:
        """Where records go, for people."""
        return self._summary

    def send(self, batch: Sequence[Span]) -> Sequence[Result]:
        """Store a record of each model call; see `Sink`. Other spans are skipped."""
        results: list[Result] = [SKIPPED] * len(batch)
        documents: list[Document] = []
        places: list[int] = []
        without: list[str] = []
        for place, span in enumerate(batch):
            if span.kind is not SpanKind.LLM:
                continue
            made = record_of(
                span,
                client_id=self._client_id,
                contract_version=self._contract_version,
                strict=self._strict,
            )
            if isinstance(made, Rejected):
                results[place] = made
            elif isinstance(made, NoRecord):
                without.append(made.reason)
                results[place] = Skipped(made.reason)
            else:
                documents.append(Document(f"{span.trace_id}-{span.span_id}", (_encode(made),)))
                places.append(place)
            time.sleep(0)  # other threads get a chance: a long conversation takes its time
        if documents:
            for place, result in zip(places, self._bulk.send(documents), strict=True):
                results[place] = result
        for reason in without:  # only now: a batch that could not be sent comes again
            self._skip(reason)
        return results

    def close(self) -> None:
        """Close the connections."""
        self._bulk.close()

    def _skip(self, reason: str) -> None:
        if not self.skipped[reason]:
            _log.warning(
                "millstream: a model call makes no flywheel record: %s; said once, all are counted",
                reason,
            )
        self.skipped[reason] += 1


def record_mapping(product: Product) -> dict[str, Any]:  # noqa: ARG001  # it is the same everywhere
    """What is indexed of a record: what it is selected by. Request and response are kept as they are."""
    return {
        "dynamic": False,
        "properties": {
            "timestamp": TIMESTAMP,
            "client_id": KEYWORD,
            "workload_id": KEYWORD,
            "request": UNINDEXED,
            "response": UNINDEXED,
            "contract_version": KEYWORD,
            "trace_id": KEYWORD,
            "span_id": KEYWORD,
            "latency_s": {"type": "double"},
            "error": {"properties": {"type": KEYWORD, "message": {"type": "text"}}},
        },
    }


def _from_environment(option: str, variable: str) -> str:
    value = os.environ.get(variable)
    if not value:
        raise ConfigError(
            f"the key {option!r} is missing; give it, or set the environment variable {variable}"
        )
    return value


def _default_index() -> str:
    return next((value for name in _INDEX_VARIABLES if (value := os.environ.get(name))), DEFAULT_INDEX)


def _credentials(
    endpoint: str, username: str | None, password: str | None, api_key: str | None
) -> tuple[str | None, str | None, str | None]:
    """User, password and API key. What the options leave open the environment may say."""
    named = username is not None or "@" in endpoint
    if api_key is None and not named:
        if password is None and (key := os.environ.get("ELASTICSEARCH_API_KEY")):
            return None, None, key
        username = os.environ.get("ELASTICSEARCH_USERNAME") or None
    if username is not None and password is None:
        password = os.environ.get("ELASTICSEARCH_PASSWORD") or None
    return username, password, api_key
