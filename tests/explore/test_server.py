"""What the server refuses: files, addresses, strangers, too much."""

import http.client
import json
import socket

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
            headers = {"host": f"{server.ADDRESS}:{served.port}"} | headers
            if body is not None:
                headers |= {"content-length": str(len(body)), "content-type": "application/json"}
            for name, value in headers.items():
                connection.putheader(name.replace("_", "-"), value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.read(10**6).decode("utf-8", "replace"), dict(answer.getheaders())
        finally:
            connection.close()

    return send


def test_the_page_is_served_with_the_rules_that_keep_it_in(ask):
    status, text, headers = ask("GET", "/")
    assert status == 200
    assert "senet explore" in text
    assert "default-src 'self'" in headers["content-security-policy"]
    assert "http" not in headers["content-security-policy"]  # no other place is named
    assert headers["x-content-type-options"] == "nosniff"
    assert "googleapis" not in text


PATHS = [
    "/gradio_api/file={file}",
    "/gradio_api/file={file}?x",
    "/file={file}",
    "/file/{file}",
    "//{file}",
    "{file}",
    "/static/..{file}",
    "/static/../../../../../../../../..{file}",
    "/static/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e{file}",
    "/assets/..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2f..{file}",
    "/assets/....//....//{file}",
    "/svelte/..{file}",
    "/gradio_api/custom_component/1/client/component/..{file}",
    "/gradio_api/proxy=http://127.0.0.1:{port}/",
    "/gradio_api/stream/x/1/2/playlist-file",
    "/gradio_api/upload_progress?upload_id=1",
    "/gradio_api/info",
    "/gradio_api/openapi.json",
    "/gradio_api/vibe-code/",
    "/gradio_api/runs",
    "/gradio_api/deep_link",
    "/monitoring",
    "/monitoring/summary",
    "/docs",
    "/openapi.json",
    "/login",
]


@pytest.mark.parametrize("path", PATHS)
def test_no_file_of_the_machine_can_be_reached(ask, served, tmp_path, path):
    secret = tmp_path / "secret.txt"
    secret.write_text("a secret of this machine")
    status, text, _ = ask("GET", path.format(file=secret, port=served.port))
    assert status in (400, 404)
    assert "secret of" not in text


@pytest.mark.parametrize(
    "path", ["/gradio_api/upload", "/gradio_api/run/answer", "/gradio_api/call/answer", "/gradio_api/api/predict",
             "/gradio_api/component_server", "/gradio_api/vibe-edit", "/gradio_api/process_recording", "/login"]
)  # fmt: skip
def test_nothing_else_can_be_sent(ask, path):
    assert ask("POST", path, b"{}")[0] == 404
    assert ask("PUT", path, b"{}")[0] == 404


def test_a_file_that_is_named_in_an_event_is_not_read(ask, served, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("a secret of this machine")
    file = {"path": str(secret), "url": f"http://127.0.0.1:{served.port}/config", "meta": {"_type": "gradio.FileData"}}
    config = json.loads(ask("GET", "/config")[1])
    for dependency in config["dependencies"]:
        event = {"fn_index": dependency["id"], "session_hash": "abc", "data": [file], "event_data": {"do": file}}
        assert "secret of" not in ask("POST", "/gradio_api/queue/join", json.dumps(event).encode())[1]
    text = ask("GET", "/gradio_api/queue/data?session_hash=abc")[1]
    assert "process_completed" in text
    assert "secret of" not in text
    assert list(served.temporary.rglob("*.txt")) == []


def test_other_pages_are_refused(ask, served):
    for host in ("evil.example", f"evil.example:{served.port}", f"127.0.0.1.evil.example:{served.port}", "127.0.0.1"):
        assert ask("GET", "/", host=host)[0] == 403  # another name may lead here, by DNS
    assert ask("GET", "/", host=f"localhost:{served.port}")[0] == 200
    for origin in ("http://evil.example", "null", f"https://127.0.0.1:{served.port}", "http://127.0.0.1:1"):
        status, _, headers = ask("POST", "/gradio_api/queue/join", b"{}", origin=origin)
        assert status == 403
        assert "access-control-allow-origin" not in headers


def test_too_much_is_refused(ask):
    assert ask("POST", "/gradio_api/queue/join", bytes(server._MOST_IN_A_REQUEST + 1))[0] == 413
    assert ask("POST", "/gradio_api/queue/join", b"{}", content_length="a lot")[0] >= 400


def test_too_much_in_pieces_is_refused(served):
    """A client that does not say how much it sends."""
    pieces = (bytes(2**20) for _ in range(2 + server._MOST_IN_A_REQUEST // 2**20))
    connection = http.client.HTTPConnection(server.ADDRESS, served.port, timeout=20)
    try:
        connection.request("POST", "/gradio_api/queue/join", pieces, {"content-type": "application/json"})
        assert connection.getresponse().status == 413
    except ConnectionError:  # it was gone before all was sent
        pass
    finally:
        connection.close()


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
