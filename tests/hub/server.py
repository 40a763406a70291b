"""A small server that speaks the Hub's protocol on loopback, as far as a model goes up and comes down.

Uploads go by the basic transfer of git-lfs. The newer one, in chunks (Xet), is not spoken here.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]


class Hub(ThreadingHTTPServer):
    """The server, and what it was given.

    Attributes:
        private: of each repository, whether others see it not.
        states: of each repository, the files of each branch and commit.
        heads: of each repository, the commit of each branch.
        refused: what was asked for and is not spoken here.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.private: dict[str, bool] = {}
        self.states: dict[str, dict[str, Files]] = {}
        self.heads: dict[str, dict[str, str]] = {}
        self.stored: dict[str, bytes] = {}
        self.refused: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def commit(self, repository: str, branch: str, files: Files) -> str:
        sha = hashlib.sha1(repr((repository, branch, sorted(files.items()))).encode()).hexdigest()
        self.states[repository][sha] = self.states[repository][branch] = files
        self.heads[repository][branch] = sha
        return sha


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    """A Hub that runs while the context does."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        match path.strip("/").split("/"):
            case ["api", "agent-harnesses"]:  # which the library asks for its own statistics
                self._answer(200, {})
            case ["api", "models", owner, name]:
                self._info(f"{owner}/{name}", "main")
            case ["api", "models", owner, name, "revision", revision]:
                self._info(f"{owner}/{name}", revision)
            case [owner, name, "resolve", revision, *file]:
                self._file(f"{owner}/{name}", revision, "/".join(file))
            case _:
                self._refuse()

    do_HEAD = do_GET  # noqa: N815

    def do_PUT(self):
        content = self._body()
        self.server.stored[self.path.rpartition("/")[2]] = content
        self._answer(200, {})

    def do_POST(self):
        body = self._body()
        path = unquote(urlsplit(self.path).path).strip("/")
        match path.split("/"):
            case ["api", "repos", "create"]:
                self._create(json.loads(body))
            case ["api", "models", owner, name, "branch", branch]:
                repository = f"{owner}/{name}"
                self.server.commit(repository, branch, dict(self.server.states[repository]["main"]))
                self._answer(200, {})
            case ["api", "models", *_, "preupload", _]:
                files = [file["path"] for file in json.loads(body)["files"]]
                modes = [
                    {"path": file, "uploadMode": "lfs" if file.endswith(".safetensors") else "regular"}
                    for file in files
                ]
                self._answer(200, {"files": [{**mode, "shouldIgnore": False} for mode in modes]})
            case [_, _, "info", "lfs", "objects", "batch"]:
                found = json.loads(body)["objects"]
                at = [{"upload": {"href": f"{self.server.url}/lfs/{each['oid']}"}} for each in found]
                objects = [{**each, "actions": actions} for each, actions in zip(found, at, strict=True)]
                self._answer(200, {"transfer": "basic", "objects": objects})
            case ["api", "models", owner, name, "commit", branch]:
                self._commit(f"{owner}/{name}", branch, [json.loads(line) for line in body.splitlines()])
            case ["api", "validate-yaml"]:
                self._answer(200, {"errors": [], "warnings": []})
            case _:
                self._refuse()

    def _create(self, asked):
        repository = f"{asked['organization']}/{asked['name']}"
        if repository in self.server.private:
            return self._answer(409, {"error": "there already", "url": f"{self.server.url}/{repository}"})
        self.server.private[repository] = asked.get("visibility") == "private" or asked.get("private") is True
        self.server.states[repository], self.server.heads[repository] = {}, {}
        self.server.commit(repository, "main", {})
        return self._answer(200, {"url": f"{self.server.url}/{repository}"})

    def _commit(self, repository, branch, lines):
        files = dict(self.server.states[repository][branch])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                files[value["path"]] = self.server.stored[value["oid"]]
        sha = self.server.commit(repository, branch, files)
        self._answer(200, {"commitUrl": f"{self.server.url}/{repository}/commit/{sha}", "commitOid": sha})

    def _info(self, repository, revision):
        if repository not in self.server.heads:
            return self._answer(404, {"error": "not found"}, {"X-Error-Code": "RepoNotFound"})
        sha = self.server.heads[repository].get(revision, revision)
        return self._answer(200, {"id": repository, "sha": sha, "siblings": []})

    def _file(self, repository, revision, file):
        states = self.server.states.get(repository, {})
        if revision not in states:
            return self._answer(404, {}, {"X-Error-Code": "RevisionNotFound" if states else "RepoNotFound"})
        sha = self.server.heads[repository].get(revision, revision)
        if file not in states[revision]:
            return self._answer(404, {}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha})
        content = states[revision][file]
        etag = hashlib.sha256(content).hexdigest()
        return self._answer(200, content, {"X-Repo-Commit": sha, "ETag": f'"{etag}"'})

    def _refuse(self):
        self.server.refused.append(f"{self.command} {self.path}")
        self._answer(501, {"error": "not spoken here"})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, status, content, headers=None):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
