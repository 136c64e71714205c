"""Elasticsearch and OpenSearch, run from the jars that Maven Central has."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.servers import cache, commands, jdk
from tests.servers.server import Server

JAVA = Path(__file__).with_name("java")
# Compiled lightly, a server starts in half the time, which is most of what tests ask of it.
JVM = ("-Xms256m", "-Xmx768m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
FIRST_PAGE = 10_000


@dataclass(frozen=True)
class Kind:
    """One version of a search server."""

    product: str
    version: str
    jars: str  # the version of what brings it
    jdk: int
    main: str
    sources: tuple[str, ...]


def _elasticsearch(major: int, version: str, jdk_version: int) -> Kind:
    sources = (f"elasticsearch/{major}", "elasticsearch/common")
    return Kind("elasticsearch", version, version, jdk_version, "org.elasticsearch.node.SingleNode", sources)


def _opensearch(version: str, jdk_version: int) -> Kind:
    return Kind("opensearch", version, f"{version}.0", jdk_version, "SingleNode", ("opensearch",))


KINDS: Mapping[str, Kind] = {
    "elasticsearch8": _elasticsearch(8, "8.15.0", 17),
    "elasticsearch9": _elasticsearch(9, "9.0.4", 21),
    "opensearch2": _opensearch("2.19.1", 17),
    "opensearch3": _opensearch("3.8.0", 21),
}


def prepare(name: str) -> bool:
    """Fetch the jars of one kind and compile what starts them; True if that had to be done."""
    kind = KINDS[name]

    def make(home: Path) -> None:
        java = jdk.find(kind.jdk)
        maven = commands.tool("mvn", package="Maven")
        (home / "pom.xml").write_text(_pom(kind).read_text())
        copy = ["dependency:copy-dependencies", "-DoutputDirectory=lib", f"-Dversion={kind.jars}"]
        commands.run([maven, "-q", "-B", *copy], folder=home, environment={"JAVA_HOME": str(java)})
        compiler = [str(java / "bin" / "javac"), "--release", str(kind.jdk), "-nowarn", "-Xlint:none"]
        sources = [str(source) for source in _sources(kind)]
        commands.run([*compiler, "-cp", "lib/*", "-d", "classes", *sources], folder=home)

    return cache.prepare(name, _recipe(kind), make)


def _pom(kind: Kind) -> Path:
    return JAVA / kind.product / "pom.xml"


def _sources(kind: Kind) -> list[Path]:
    return sorted(source for folder in kind.sources for source in (JAVA / folder).glob("*.java"))


def _recipe(kind: Kind) -> str:
    return "\n".join([repr(kind), *(file.read_text() for file in (_pom(kind), *_sources(kind)))])


class SearchServer(Server):
    """A single node without security; what that lacks is put in front of it (nginx.py)."""

    def __init__(self, kind: str, folder: Path) -> None:
        super().__init__(kind, folder, start_s=180)
        self.kind = kind
        self.version = KINDS[kind].version
        self.is_opensearch = KINDS[kind].product == "opensearch"
        self._home = cache.prepared(kind, _recipe(KINDS[kind]))
        self._java = jdk.find(KINDS[kind].jdk)
        self.http = httpx.Client(base_url=self.url, timeout=30, trust_env=False)

    def command(self) -> list[str]:
        data = self.folder / "data"
        (data / "config").mkdir(parents=True, exist_ok=True)
        path = f"{self._home / 'classes'}:{self._home / 'lib'}/*"
        java = str(self._java / "bin" / "java")
        return [java, *JVM, "-cp", path, KINDS[self.kind].main, str(data), str(self.port)]

    def ready(self) -> bool:
        try:
            health = self.http.get("/_cluster/health", timeout=2)
        except httpx.TransportError:
            return False
        return health.status_code == httpx.codes.OK and health.json()["status"] in {"green", "yellow"}

    def kill(self) -> None:
        super().kill()
        self.http.close()
        self.http = httpx.Client(base_url=self.url, timeout=30, trust_env=False)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """What the server answers, decoded; an answer of 400 or more raises, with what the server said."""
        answer = self.http.request(method, path, json=body)
        if answer.is_error:
            raise httpx.HTTPStatusError(
                f"{method} {path}: {answer.status_code} {answer.text}",
                request=answer.request,
                response=answer,
            )
        return answer.json() if answer.content else None

    def documents(self, index: str) -> list[dict[str, Any]]:
        """All documents of an index or pattern, refreshed first, each with its "_id", in order of id."""
        self.call("POST", f"/{index}/_refresh")
        found = self.call("POST", f"/{index}/_search", {"size": FIRST_PAGE, "version": True})["hits"]
        if found["total"]["value"] >= FIRST_PAGE:
            raise ValueError(f"{index} has {FIRST_PAGE} documents or more: count or page them in the test")
        documents = [{"_id": hit["_id"], **hit["_source"]} for hit in found["hits"]]
        return sorted(documents, key=lambda document: document["_id"])

    def wipe(self) -> None:
        """Delete what tests made: data streams, indices, templates, pipelines and settings."""
        if self.is_opensearch:
            self.call("DELETE", "/_data_stream/*")
        for index in self.call("GET", "/_cat/indices?format=json&h=index&expand_wildcards=all"):
            self.call("DELETE", f"/{index['index']}")
        for made in ("_index_template", "_component_template", "_template", "_ingest/pipeline"):
            self.call("DELETE", f"/{made}/*")
        kept = self.call("GET", "/_cluster/settings")
        changed = {kind: {f"{name}.*": None for name in kept[kind]} for kind in kept if kept[kind]}
        if changed:
            self.call("PUT", "/_cluster/settings", changed)
