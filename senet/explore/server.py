"""Serve the page to this machine only: the page, its script and style, and one route that takes events.

It uses only Starlette and uvicorn. A widget framework would add routes for uploading files, serving
files and fetching URLs, which would all have to be closed again.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import functools
import json
import re
import secrets
import signal
import socket
import threading
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from senet.errors import StudyError
from senet.explore.pictures import MOST_BYTES
from senet.explore.session import Session, act, see
from senet.explore.view import asset, document, regions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from starlette.requests import Request
    from starlette.responses import Response

    from senet.explore.network import Subject

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    Application = Callable[[Scope, Receive, Send], Awaitable[None]]

__all__ = ["ADDRESS", "MOST_IN_A_REQUEST", "PORT", "Guard", "application", "listen", "serve"]

ADDRESS = "127.0.0.1"
PORT = 7860
MOST_IN_A_REQUEST = MOST_BYTES * 4 // 3 + 2**16  # an image in base64 with its envelope
_MOST_TABS = 64
_OWN_HOSTS = frozenset({ADDRESS, "localhost", "::1"})
_LOOKED_AFTER = 0.2  # seconds after which a waiting request asks whether the server ends
_LONGEST_LOOK = 30.0  # seconds that shutdown waits for a computing network
_HEADERS = (
    # the browser blocks outgoing requests, whatever the page holds
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src data:; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
_Result = TypeVar("_Result")


class Guard:
    """Middleware that lets only requests of this page pass.

    The host of a request must be this machine or an allowed one, which prevents DNS rebinding. The
    port may differ, since a tunnel has its own. Requests of other origins are refused.
    """

    def __init__(self, application: Application, port: int, hosts: Collection[str] = ()) -> None:
        self.application = application
        self.port = port
        self.hosts = _OWN_HOSTS | set(map(_name_of, hosts))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self.application(scope, receive, with_headers)
        else:
            from starlette.responses import PlainTextResponse

            await PlainTextResponse(refusal, 403)(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> str | None:
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get(b"host", ""), headers.get(b"origin")
        name = _host(f"//{host}")
        if name not in self.hosts:
            return f"This page is at http://{ADDRESS}:{self.port}.{_how_to_allow(name)}"
        # a proxy may forward the request under its own host name with the original origin
        if origin is not None and origin != f"http://{host}" and _host(origin) not in self.hosts - _OWN_HOSTS:
            return f"Another page asks: this one is at http://{ADDRESS}:{self.port}.{_how_to_allow(_host(origin))}"
        return None


def _name_of(given: str) -> str:
    """The name in an allowed host, which may be copied from a browser's address bar."""
    if "//" not in given and "[" not in given and given.count(":") > 1:
        return given.lower()  # an IPv6 address
    return _host(given if "//" in given else f"//{given}")


def _how_to_allow(name: str) -> str:
    # Nothing else that a stranger sends is repeated.
    if name in _OWN_HOSTS or not re.fullmatch(r"[a-z0-9._:-]+", name):
        return ""
    return f" To reach it as {name}, start senet explore with --allow-host {name}."


def _host(address: str) -> str:
    try:
        return (urlsplit(address).hostname or "").lower()
    except ValueError:
        return ""


@dataclasses.dataclass
class _Tab:
    """The session of one browser tab, which handles one event at a time."""

    session: Session
    one_at_a_time: asyncio.Lock = dataclasses.field(default_factory=asyncio.Lock)


class _Tabs:
    """The tabs by a secret key, which survives a reload. Beyond a limit the least recently used are dropped."""

    def __init__(self, network: str) -> None:
        self._network = network
        self._tabs: collections.OrderedDict[str, _Tab] = collections.OrderedDict()

    def of(self, key: object) -> tuple[str, _Tab]:
        if not isinstance(key, str) or key not in self._tabs:
            key = secrets.token_urlsafe(16)
            self._tabs[key] = _Tab(Session(self._network))
        self._tabs.move_to_end(key)
        while len(self._tabs) > _MOST_TABS:
            self._tabs.popitem(last=False)
        return key, self._tabs[key]


def listen(port: int | None = None) -> socket.socket:
    """A socket on this machine's own address, at `port`; by default 7860, or a free port if that is taken.

    Raises:
        StudyError: `port` is not available.
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


def application(
    subjects: Mapping[str, Subject],
    port: int,
    *,
    hosts: Collection[str] = (),
    looking: threading.Lock | None = None,
    ready: Callable[[], None] = lambda: None,
    ending: Callable[[], bool] = lambda: False,
) -> Application:
    """The page behind its guard, for any ASGI server.

    Args:
        subjects: the networks, by name.
        port: the server's port, for the guard's messages.
        hosts: additional host names by which the page may be reached.
        looking: a lock held while a network computes.
        ready: a function called when the server starts.
        ending: a function that says whether the server is to end, so that nobody waits for a slow image.
    """
    from starlette.applications import Starlette
    from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
    from starlette.routing import Route

    first = next(iter(subjects))
    tabs = _Tabs(first)
    # The hooks that hold and record gates are on the network itself, so two simultaneous runs would interfere.
    one_look = looking or threading.Lock()

    def answer(session: Session, asked: object) -> dict[str, str]:
        if asked is not None:
            act(session, subjects, asked)  # decode the image while other tabs continue
        with one_look:
            return regions(session, subjects, see(session, subjects[session.network]))

    async def do(request: Request) -> Response:
        # Another page cannot send this content type without a preflight request.
        if request.headers.get("content-type") != "application/json":
            return PlainTextResponse("application/json is what is taken here", 415)
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MOST_IN_A_REQUEST:
                return PlainTextResponse("that is too much", 413, {"connection": "close"})
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError):
            return PlainTextResponse("that is no JSON", 400)
        asked = asked if isinstance(asked, dict) else {}
        key, tab = tabs.of(asked.get("tab"))
        async with tab.one_at_a_time:
            found = await _in_a_daemon(functools.partial(answer, tab.session, asked.get("what")), ending)
        if found is None:
            return PlainTextResponse("senet explore was ended", 503)
        return JSONResponse({"tab": key, "regions": found})

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        ready()
        yield

    def fixed(response: Response) -> Callable[[Request], Awaitable[Response]]:
        async def get(_request: Request) -> Response:
            return response

        return get

    page = document(answer(Session(first), None))
    routes = [
        Route("/", fixed(HTMLResponse(page))),
        Route("/page.js", fixed(Response(asset("page.js"), media_type="text/javascript"))),
        Route("/page.css", fixed(Response(asset("page.css"), media_type="text/css"))),
        Route("/do", do, methods=["POST"]),
    ]
    return Guard(Starlette(routes=routes, lifespan=lifespan), port, hosts)


async def _in_a_daemon(work: Callable[[], _Result], ending: Callable[[], bool]) -> _Result | None:
    """Run `work` in a daemon thread, and wait for it; None if the server ends before."""
    # At exit Python waits for the threads of asyncio's and anyio's pools, so a slow image would
    # delay the process's end.
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_Result] = loop.create_future()

    def tell(result: _Result | None, error: Exception | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, failed = None, None
        try:
            result = work()
        except Exception as error:
            failed = error
        with contextlib.suppress(RuntimeError):  # the loop is closed and nothing waits
            loop.call_soon_threadsafe(tell, result, failed)

    threading.Thread(target=run, daemon=True).start()
    while not done.done():
        if ending():  # else uvicorn would cancel this and log a traceback
            return None
        await asyncio.wait([done], timeout=_LOOKED_AFTER)
    return done.result()


def serve(
    subjects: Mapping[str, Subject],
    server: socket.socket,
    *,
    hosts: Collection[str] = (),
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve the page on a socket from `listen` until Ctrl-C or SIGTERM; call `ready` once it is reachable.

    Args:
        subjects: the networks, by name.
        server: the socket.
        hosts: additional host names by which the page may be reached, for instance through a proxy.
        ready: called once.
    """
    import uvicorn

    looking = threading.Lock()
    with contextlib.closing(server):
        running: list[uvicorn.Server] = []
        app = application(
            subjects,
            server.getsockname()[1],
            hosts=hosts,
            looking=looking,
            ready=ready,
            ending=lambda: running[0].should_exit,
        )
        settings = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=1, ws="none"
        )
        try:
            with _ended_by_sigterm():
                running.append(uvicorn.Server(settings))
                running[0].run(sockets=[server])
        finally:
            looking.acquire(timeout=_LONGEST_LOOK)  # ending Python while PyTorch computes would crash


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """A context in which SIGTERM raises KeyboardInterrupt, so that the command ends as after Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
