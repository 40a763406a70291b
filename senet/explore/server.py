"""Serve the page to this machine alone, and nothing but the page.

Gradio's server can do more than this page needs: it takes files, serves files, fetches addresses. What the page
needs is listed here; everything else is not there.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from senet.errors import StudyError
from senet.explore.pictures import MOST_BYTES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from senet.explore.network import Subject

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    Application = Callable[[Scope, Receive, Send], Awaitable[None]]

__all__ = ["ADDRESS", "PORT", "Guard", "application", "listen", "quiet", "serve"]

ADDRESS = "127.0.0.1"
PORT = 7860
_MOST_IN_A_REQUEST = MOST_BYTES * 4 // 3 + 2**16  # a picture in base64, and what is around it

_NAME = r"[A-Za-z0-9_.-]+"
_ROUTES = tuple(
    (method, re.compile(path))
    for method, path in (
        ("GET", r"/(theme\.css|manifest\.json|favicon\.ico|config)?"),
        ("HEAD", r"/"),
        ("GET", rf"/(assets|static)(/{_NAME})+"),
        ("GET", r"/gradio_api/(queue/data|startup-events)"),
        ("GET", rf"/gradio_api/heartbeat/{_NAME}"),
        ("POST", r"/gradio_api/(queue/join|reset/?|cancel)"),
    )
)
_HEADERS = (
    # the browser itself lets no request out, whatever is on the page
    (
        b"content-security-policy",
        b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        b"img-src 'self' data:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'self'; "
        b"form-action 'none'; frame-src 'none'; frame-ancestors 'none'; worker-src 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class Guard:
    """In front of the application: this page's own requests pass, and none that is too large.

    A request must name the page's own address as its host (another name that leads here is somebody else's page, by
    DNS), come from no other page, and be one that the page makes.
    """

    def __init__(self, application: Application, port: int) -> None:
        self.application = application
        self.hosts = frozenset({f"{ADDRESS}:{port}", f"localhost:{port}"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] == "lifespan":
            await self.application(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await _refuse(send, scope, *refusal)
            return
        bounded = _Bounded(receive)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                if bounded.passed:
                    message["status"] = 413
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        await self.application(scope, bounded, with_headers)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        if scope["type"] != "http":
            return 404, "there is no such thing here"
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get(b"host", ""), headers.get(b"origin")
        if host not in self.hosts:
            return 403, f"this page is at http://{ADDRESS}"
        if origin is not None and origin != f"http://{host}":
            return 403, "another page asks"
        path = scope["path"]
        known = any(scope["method"] == method and route.fullmatch(path) for method, route in _ROUTES)
        if not known or ".." in path:
            return 404, "there is no such thing here"
        length = headers.get(b"content-length", "0")
        if not length.isdecimal() or int(length) > _MOST_IN_A_REQUEST:
            return 413, "that is too much"
        return None


class _Bounded:
    """What a client sends, up to the limit; a client that sends more is gone."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._count = 0
        self.passed = False

    async def __call__(self) -> Message:
        message = await self._receive()
        self._count += len(message.get("body", b""))
        if self._count > _MOST_IN_A_REQUEST:
            self.passed = True
            return {"type": "http.disconnect"}
        return message


async def _refuse(send: Send, scope: Scope, status: int, words: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": words.encode()})


def listen(port: int | None = None) -> socket.socket:
    """A socket of this machine's own address, at `port`; not given, at 7860, or where that is taken at a free one.

    Raises:
        StudyError: where `port` cannot be had.
    """
    for wanted in (PORT, 0) if port is None else (port,):
        server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((ADDRESS, wanted))
            server.listen()
        except (OSError, OverflowError) as error:
            server.close()
            if port is not None:
                raise StudyError(f"port {port} of {ADDRESS} cannot be had ({error}): choose another, or none") from None
            continue
        return server
    raise StudyError(f"{ADDRESS} has no free port")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within it Gradio tells nobody that it runs, asks for nothing, and keeps its files where they are then deleted.

    Its settings in the environment are set aside: some of them open what this page keeps closed.
    """
    ours = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}
    theirs = [name for name in os.environ if name.startswith("GRADIO_")]
    before = {name: os.environ.get(name) for name in {*ours, *theirs, "GRADIO_TEMP_DIR"}}
    with tempfile.TemporaryDirectory(prefix="senet-explore-") as folder:
        for name in theirs:
            del os.environ[name]
        os.environ.update(ours, GRADIO_TEMP_DIR=folder)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def application(subjects: Mapping[str, Subject], port: int, *, ready: Callable[[], None] = lambda: None) -> Application:
    """The page and its guard, for any ASGI server on `port`, which calls `ready` as it starts; call it in `quiet`."""
    import gradio as gr
    from fastapi import FastAPI

    from senet.explore.page import build, css, theme

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        ready()
        yield

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    gr.mount_gradio_app(
        app,
        build(subjects),
        path="/",
        server_name=ADDRESS,
        server_port=port,
        allowed_paths=[],
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=1,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=theme(),
        css=css(),
    )
    return Guard(app, port)


def serve(subjects: Mapping[str, Subject], server: socket.socket, *, ready: Callable[[], None] = lambda: None) -> None:
    """Serve the page on a socket that `listen` returned, until Ctrl-C or SIGTERM; once it can be seen, call `ready`."""
    import uvicorn

    with quiet(), contextlib.closing(server):
        app = application(subjects, server.getsockname()[1], ready=ready)
        settings = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=1, ws="none"
        )
        with _ended_by_sigterm():
            uvicorn.Server(settings).run(sockets=[server])


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Within it SIGTERM is a KeyboardInterrupt, so that what is temporary is deleted before the process ends."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
