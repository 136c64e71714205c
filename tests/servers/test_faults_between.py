"""What toxiproxy and nginx put between a client and a server."""

import hashlib
import socket
import ssl
import time

import httpx
import numpy as np
import pytest

from tests.servers.server import HOST


def get(url, *, timeout=5.0, **options):
    return httpx.get(f"{url}/_cluster/health", timeout=timeout, trust_env=False, **options)


@pytest.fixture
def long_path(opensearch3):
    """The path of a document of 40,000 characters that cannot be compressed to less than half."""
    opensearch3.call("PUT", "/notes/_doc/1", {"text": np.random.default_rng(1).bytes(20_000).hex()})
    return "/notes/_doc/1"


@pytest.fixture
def proxy(toxiproxy, opensearch3):
    return toxiproxy.proxy(opensearch3)


def test_without_a_fault_all_comes_through(proxy, opensearch3):
    assert (
        get(proxy.url).json()["cluster_name"] == opensearch3.call("GET", "/_cluster/health")["cluster_name"]
    )


def test_latency(proxy):
    proxy.latency(400)
    begun = time.monotonic()
    assert get(proxy.url).is_success
    assert time.monotonic() - begun >= 0.4

    proxy.clear()
    begun = time.monotonic()
    assert get(proxy.url).is_success
    assert time.monotonic() - begun < 0.4


@pytest.mark.parametrize("upstream", [False, True])
def test_hang(proxy, upstream):
    proxy.hang(upstream=upstream)
    with pytest.raises(httpx.ReadTimeout):
        get(proxy.url, timeout=0.5)


def test_reset(proxy):
    proxy.reset()
    with pytest.raises(httpx.ReadError, match="reset"):
        get(proxy.url)


def test_cut(proxy):
    proxy.cut(100)
    with pytest.raises(httpx.RemoteProtocolError):
        get(proxy.url)


def test_bandwidth(proxy, long_path):
    proxy.bandwidth(20)
    begun = time.monotonic()
    answer = httpx.get(f"{proxy.url}{long_path}", timeout=20, trust_env=False)
    assert len(answer.json()["_source"]["text"]) == 40_000
    assert time.monotonic() - begun > 0.5


def test_disabled_and_enabled(proxy):
    proxy.disable()
    with pytest.raises(httpx.ConnectError):
        get(proxy.url)
    proxy.enable()
    assert get(proxy.url).is_success


def test_a_password(guard, opensearch3):
    guarded = guard(opensearch3, basic=("user", "pass word:1"))

    assert get(guarded.url).status_code == 401
    assert get(guarded.url, auth=("user", "another")).status_code == 401
    assert get(guarded.url, auth=("user", "pass word:1")).is_success

    asked = [(each["method"], each["path"], each["status"], each["scheme"]) for each in guarded.requests(3)]
    path = "/_cluster/health"
    assert asked == [("GET", path, 401, ""), ("GET", path, 401, "Basic"), ("GET", path, 200, "Basic")]


def test_an_api_key(guard, opensearch3):
    guarded = guard(opensearch3, api_key="bWlsbDpzdHJlYW0=")

    assert get(guarded.url, headers={"Authorization": "ApiKey another"}).status_code == 401
    assert get(guarded.url, auth=("user", "password")).status_code == 401
    assert get(guarded.url, headers={"Authorization": "ApiKey bWlsbDpzdHJlYW0="}).is_success


def test_either(guard, opensearch3):
    guarded = guard(opensearch3, api_key="bWlsbA==", basic=("user", "password"))

    assert get(guarded.url).status_code == 401
    assert get(guarded.url, auth=("user", "password")).is_success
    assert get(guarded.url, headers={"Authorization": "ApiKey bWlsbA=="}).is_success


def test_a_body_that_is_too_large(guard, opensearch3):
    guarded = guard(opensearch3, max_body_bytes=1_000)

    assert httpx.post(f"{guarded.url}/notes/_doc", json={"text": "short"}, trust_env=False).is_success
    assert (
        httpx.post(f"{guarded.url}/notes/_doc", json={"text": "x" * 1_000}, trust_env=False).status_code
        == 413
    )


def test_tls_and_its_fingerprint(guard, opensearch3, authority):
    guarded = guard(opensearch3, tls=True)

    trusting = ssl.create_default_context(cafile=str(authority.ca_file))
    assert get(guarded.url, verify=trusting).is_success
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        get(guarded.url, verify=ssl.create_default_context(cafile=str(authority.other_ca_file)))
    with (
        socket.create_connection((HOST, guarded.port)) as connection,
        trusting.wrap_socket(connection, server_hostname="localhost") as secured,
    ):
        certificate = secured.getpeercert(binary_form=True)
    assert hashlib.sha256(certificate).hexdigest() == authority.fingerprint


def test_tls_through_a_proxy_with_faults(guard, toxiproxy, opensearch3, authority, long_path):
    proxy = toxiproxy.proxy(guard(opensearch3, tls=True))
    trusting = ssl.create_default_context(cafile=str(authority.ca_file))
    assert get(proxy.url, verify=trusting).is_success

    proxy.cut(10_000)
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{proxy.url}{long_path}", verify=trusting, trust_env=False)
