"""What the server refuses: files, addresses, strangers, too much."""

import contextlib
import http.client
import json
import socket
import subprocess
import sys

import pytest

from senet.explore import listen, server
from senet.study import StudyError


@pytest.fixture
def ask(served):
    """One raw request: status and body."""

    def send(method, path, body=None, **headers):
        connection = http.client.HTTPConnection(server.ADDRESS, served.port, timeout=20)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            headers = {name.replace("_", "-"): value for name, value in headers.items()}
            headers = {"host": f"{server.ADDRESS}:{served.port}"} | headers
            if body is not None:
                headers = {"content-length": str(len(body)), "content-type": "application/json"} | headers
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.read(10**6).decode("utf-8", "replace"), dict(answer.getheaders())
        finally:
            connection.close()

    return send


def test_the_page_is_served_with_the_rules_that_keep_it_in(ask):
    status, text, headers = ask("GET", "/")
    assert status == 200
    assert "What do the gates do?" in text
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "http" not in headers["content-security-policy"]  # no other place is named
    assert headers["x-content-type-options"] == "nosniff"
    assert "http" not in text
    assert "<script>" not in text  # its policy lets none run
    assert ask("HEAD", "/")[:2] == (200, "")
    for name, kind in (("page.js", "text/javascript"), ("page.css", "text/css")):
        status, text, headers = ask("GET", f"/{name}")
        assert (status, headers["content-type"].partition(";")[0]) == (200, kind)
        assert "http" not in text


PATHS = [
    "/{file}",
    "//{file}",
    "{file}",
    "/page.js/..{file}",
    "/static/..{file}",
    "/static/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e{file}",
    "/..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2f..{file}",
    "/server.py",
    "/templates/page.html",
    "/docs",
    "/openapi.json",
]


@pytest.mark.parametrize("path", PATHS)
def test_no_file_of_the_machine_can_be_reached(ask, tmp_path, path):
    secret = tmp_path / "secret.txt"
    secret.write_text("a secret of this machine")
    status, text, _ = ask("GET", path.format(file=secret))
    assert status in (400, 404)
    assert "secret of" not in text


def test_nothing_else_can_be_asked(ask):
    assert ask("GET", "/do")[0] == 405
    for method in ("POST", "PUT", "DELETE"):
        assert ask(method, "/", b"{}")[0] == 405
        assert ask(method, "/upload", b"{}")[0] == 404
    assert ask("POST", "/do", b"{}", content_type="text/plain")[0] == 415  # which a form elsewhere can send
    assert ask("POST", "/do", b"{")[0] == 400
    assert ask("POST", "/do", b"[" * 100_000)[0] == 400
    for asked in (b"[]", b"1", b'{"tab": {"a": 1}, "what": 7}'):
        assert ask("POST", "/do", asked)[0] == 200  # the page as it is


def test_a_file_that_is_named_in_an_event_is_not_read(ask, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("a secret of this machine")
    file = {"path": str(secret), "url": "http://127.0.0.1/config"}
    status, text, _ = ask("POST", "/do", json.dumps({"what": {"do": file, "data": file}}).encode())
    assert status == 200
    assert "secret of" not in text


def test_a_tab_is_known_again_by_its_key_alone(ask):
    def do(what, tab=None):
        return json.loads(ask("POST", "/do", json.dumps({"tab": tab, "what": what}).encode())[1])

    first = do({"do": "all", "value": "one"})
    again = do(None, first["tab"])
    assert again["tab"] == first["tab"]
    assert "held at 1" in again["regions"]["strips"]
    for stranger in (None, "guessed", first["tab"] + "x"):
        other = do(None, stranger)
        assert other["tab"] not in (first["tab"], stranger)
        assert "held at 1" not in other["regions"]["strips"]


def test_of_too_many_tabs_the_longest_unused_is_forgotten():
    tabs = server._Tabs("net")
    keys = [tabs.of(None)[0] for _ in range(server._MOST_TABS)]
    first = tabs.of(keys[0])[1]
    tabs.of(None)
    assert tabs.of(keys[0])[1] is first
    assert tabs.of(keys[1])[0] != keys[1]


def test_other_pages_are_refused_and_told_how_to_be_let_in(ask, served):
    for host in ("evil.example", f"evil.example:{served.port}", f"127.0.0.1.evil.example:{served.port}", "", "[x"):
        status, text, _ = ask("GET", "/", host=host)  # another name may lead here, by DNS
        assert status == 403
        assert text.startswith(f"This page is at http://127.0.0.1:{served.port}.")
    assert "start senet explore with --allow-host evil.example." in ask("GET", "/", host="evil.example:80")[1]
    assert "<" not in ask("GET", "/", host="<script>.example")[1]
    for name, host in (("my_machine", "my_machine:80"), ("fe80::1", "[fe80::1]:80")):
        assert f"--allow-host {name}." in ask("GET", "/", host=host)[1]
    for host in ("localhost", f"localhost:{served.port}", "localhost:8888", "127.0.0.1:1", "[::1]:80"):
        assert ask("GET", "/", host=host)[0] == 200  # a tunnel has a port of its own
    for origin in ("http://evil.example", "null", f"https://127.0.0.1:{served.port}", "http://127.0.0.1:1"):
        status, text, headers = ask("POST", "/do", b"{}", origin=origin)
        assert status == 403
        # a proxy that passes the host on as its own leads to the page, and only what the page asks is refused
        assert ("--allow-host evil.example." in text) is (origin == "http://evil.example")
        assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("given", ["Proxy.Example", "proxy.example:8443", "https://proxy.example/gates/"])
def test_a_host_that_was_allowed_is_let_in_and_its_page_may_ask(given):
    guard = server.Guard(None, 7860, [given])

    def refused(**headers):
        return guard._refusal({"headers": [(name.encode(), value.encode()) for name, value in headers.items()]})

    assert refused(host="proxy.example") is None
    assert refused(host="proxy.example:8443", origin="https://proxy.example:8443") is None
    assert refused(host="127.0.0.1:7860", origin="https://proxy.example") is None  # a proxy that rewrites the host
    assert refused(host="proxy.example", origin="http://127.0.0.1:1")
    assert refused(host="proxy.example", origin="https://evil.example")
    assert refused(host="evil.proxy.example")


def test_an_allowed_address_without_a_name():
    for given in ("fe80::1", "[FE80::1]:80", "http://[fe80::1]:7860"):
        assert "fe80::1" in server.Guard(None, 7860, [given]).hosts


def test_too_much_is_refused(ask):
    with contextlib.suppress(ConnectionError):  # it is gone before all is sent
        assert ask("POST", "/do", bytes(server.MOST_IN_A_REQUEST + 1))[0] == 413
    assert ask("POST", "/do", b"{}", content_length="a lot")[0] >= 400


def test_too_much_in_pieces_is_refused(served):
    """A client that does not say how much it sends."""
    pieces = (bytes(2**20) for _ in range(2 + server.MOST_IN_A_REQUEST // 2**20))
    connection = http.client.HTTPConnection(server.ADDRESS, served.port, timeout=20)
    try:
        connection.request("POST", "/do", pieces, {"content-type": "application/json"})
        assert connection.getresponse().status == 413
    except ConnectionError:
        pass
    finally:
        connection.close()


SLOW = """
import sys, time
from senet.explore import listen, open_subject, serve, session

session.read_picture = lambda content: time.sleep(1000)
with listen(0) as server:
    ready = lambda: print(server.getsockname()[1], flush=True)
    try:
        serve({"net": open_subject("se_resnet20")}, server, ready=ready)
    except KeyboardInterrupt:
        pass
"""


def test_a_picture_that_takes_for_ever_keeps_neither_others_nor_the_end_waiting():
    process = subprocess.Popen([sys.executable, "-c", SLOW], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        port = int(process.stdout.readline())

        def do(what):
            connection = http.client.HTTPConnection(server.ADDRESS, port, timeout=60)
            body = json.dumps({"what": what})
            connection.request("POST", "/do", body, {"content-type": "application/json"})
            return connection

        slow = do({"do": "picture", "slot": "A", "name": "slow.jpg", "data": "AAAA"})
        other = do({"do": "all", "value": "one"})
        assert "all blocks are held at 1" in other.getresponse().read().decode()
        process.terminate()
        assert process.wait(timeout=60) == 0
        assert process.stderr.read() == ""
        assert slow.getresponse().status == 503
        slow.close()
        other.close()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def test_only_this_machine_is_listened_to(served):
    with socket.create_connection((server.ADDRESS, served.port), timeout=5):
        pass
    with pytest.raises(ConnectionRefusedError):  # what listens to all addresses listens to this one
        socket.create_connection(("127.0.0.2", served.port), timeout=2).close()


def test_a_port_that_is_taken():
    with listen() as first, listen() as second:
        assert first.getsockname()[0] == second.getsockname()[0] == "127.0.0.1"
        port = first.getsockname()[1]
        assert port != second.getsockname()[1]
        with pytest.raises(StudyError, match=f"port {port} of 127.0.0.1 cannot be had"):
            listen(port)
    with pytest.raises(StudyError, match="port 70000"):
        listen(70000)
