"""The four search servers: each starts, is what it says, keeps documents over kill -9, and is wiped."""

import httpx
import pytest


def test_gives_back_what_it_takes(search_server):
    search_server.call("PUT", "/notes/_doc/1", {"text": "stream"})
    search_server.call("PUT", "/notes/_doc/0", {"text": "mill"})

    assert search_server.call("GET", "/")["version"]["number"] == search_server.version
    assert search_server.documents("notes") == [{"_id": "0", "text": "mill"}, {"_id": "1", "text": "stream"}]


@pytest.mark.parametrize("time", [1, 2])
def test_each_test_finds_nothing_of_another(search_server, time):
    assert search_server.call("GET", "/_cat/indices?format=json") == []
    assert search_server.call("GET", "/_index_template") == {"index_templates": []}
    assert search_server.http.get("/_ingest/pipeline").json() == {}

    template = {
        "index_patterns": ["left-*"],
        "template": {"settings": {"number_of_replicas": 0}},
        "composed_of": ["part"],
    }
    search_server.call("PUT", "/_component_template/part", {"template": {"mappings": {"properties": {}}}})
    search_server.call("PUT", "/_index_template/left", template)
    search_server.call("PUT", "/_ingest/pipeline/left", {"processors": []})
    search_server.call(
        "PUT", "/_cluster/settings", {"persistent": {"action.auto_create_index": "-refused,*"}}
    )
    search_server.call("PUT", "/left-behind/_doc/1?refresh=true", {"time": time})

    with pytest.raises(httpx.HTTPStatusError, match="404"):
        search_server.call("PUT", "/refused/_doc/1", {})


def test_keeps_documents_over_a_kill(search_server):
    search_server.call("PUT", "/notes/_doc/1", {"text": "stream"})

    search_server.kill()
    with pytest.raises(httpx.ConnectError):
        search_server.call("GET", "/")
    search_server.start()

    assert search_server.documents("notes") == [{"_id": "1", "text": "stream"}]


def test_a_paused_one_takes_connections_and_answers_when_it_goes_on(search_server):
    search_server.pause()
    with pytest.raises(httpx.ReadTimeout):
        search_server.http.get("/", timeout=0.5)

    search_server.resume()
    assert search_server.http.get("/").is_success


def test_one_that_a_test_left_paused_goes_on(servers, elasticsearch8):
    elasticsearch8.pause()

    assert servers.search("elasticsearch8") is elasticsearch8
    assert elasticsearch8.http.get("/").is_success


def test_two_run_side_by_side(opensearch2, opensearch3):
    assert opensearch2.port != opensearch3.port
    assert opensearch2.call("GET", "/")["version"]["number"] == "2.19.1"
    assert opensearch3.call("GET", "/")["version"]["number"] == "3.8.0"


def test_an_error_says_what_the_server_said(search_server):
    with pytest.raises(httpx.HTTPStatusError, match="index_not_found_exception"):
        search_server.call("GET", "/nothing/_search")
