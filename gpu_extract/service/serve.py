"""`gpu-extract serve`: the office and the door, from the first to the last second of a process."""

from __future__ import annotations

import ipaddress
import logging
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import uvicorn

from gpu_extract.errors import DeviceError, InterruptedRunError, UsageError
from gpu_extract.options import ServiceSettings
from gpu_extract.run.signals import StopOnSignal, taken
from gpu_extract.service.access import Tokens
from gpu_extract.service.connections import Connections, most_connections
from gpu_extract.service.folders import Data
from gpu_extract.service.meters import Meters
from gpu_extract.service.office import Office
from gpu_extract.service.uploads import Uploads
from gpu_extract.service.web.app import make_app
from gpu_extract.service.web.guard import EVERYWHERE

END_SECONDS = 8.0
"""In which requests, then processes, come to an end; a container's runtime kills after ten."""
SWEEP_SECONDS = 300.0
BACKLOG = 256
KEEP_ALIVE_SECONDS = 30
LOOK_TICKS = 10
"""Tenths of a second, after which connections are looked at, unless there are too many."""
log = logging.getLogger("gpu_extract.service")


class _Server(uvicorn.Server):
    """Cuts off who says nothing, and tells the office of the first signal, so that event streams end; its exit code is
    then 0.

    Args:
        earlier: the signals until it runs, of which none raises: not all libraries that are set up would pass it on.
    """

    def __init__(self, config: uvicorn.Config, drain: Callable[[], None], earlier: StopOnSignal) -> None:
        super().__init__(config)
        self._drain, self._earlier = drain, earlier
        self._connections = Connections(most_connections())

    async def on_tick(self, counter: int) -> bool:
        there = self.server_state.connections
        if counter % LOOK_TICKS == 0 or len(there) > self._connections.most:
            for connection in self._connections.superfluous(there, time.monotonic()):
                connection.transport.abort()
        return await super().on_tick(counter)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self.handle_exit) for number in taken()}
        try:
            if self._earlier.exit_code is not None:
                raise InterruptedRunError("interrupted.", self._earlier.exit_code)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # not a traceback for each request that is cut
        threading.Thread(target=self._drain, name="gpu-extract-drain").start()  # a handler must not wait for a lock


def serve(settings: ServiceSettings, say: Callable[[str], None]) -> int:
    """Serve until a signal comes; returns 0.

    Args:
        say: told where the service is, and its first token.

    Raises:
        UsageError: for a door that would be open to everybody.
        OutputError: if the data folder cannot be written, or another service has it.
        DeviceError: if the address cannot be had.
        InterruptedRunError: if a signal came before it served.
    """
    if settings.no_auth and not _is_of_this_machine(settings.host):
        raise UsageError(
            f"no-auth would let everybody in who reaches {settings.host}; it is for 127.0.0.1, ::1 and localhost."
        )
    listening = listen(settings.host, settings.port)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a file for each connection
    with listening, StopOnSignal() as signals, signals.calling(lambda: None):
        port = listening.getsockname()[1]
        data = Data(settings.data)
        meters = Meters()
        uploads, office = _open(settings, data, meters)
        try:
            tokens, secret = _tokens(settings, data)
            names = [name.strip() for name in (settings.allow_hosts or "").split(",") if name.strip()]
            names.append(socket.gethostname())
            app = make_app(office, uploads, tokens, bound=settings.host, names=names)
            server = _Server(
                uvicorn.Config(
                    app,
                    ws="none",
                    log_config=None,
                    access_log=False,
                    backlog=BACKLOG,
                    timeout_keep_alive=KEEP_ALIVE_SECONDS,
                    timeout_graceful_shutdown=int(END_SECONDS / 2),
                    server_header=False,
                    proxy_headers=False,
                ),
                office.drain,
                signals,
            )
            office.start()
            ended = threading.Event()
            janitor = threading.Thread(
                target=_sweep, args=(office, uploads, ended), name="gpu-extract-janitor", daemon=True
            )
            janitor.start()
            say(_where(settings, port, secret))
            server.run(sockets=[listening])
            ended.set()
        finally:
            office.drain()
            office.close(END_SECONDS)
    return 0


def _open(settings: ServiceSettings, data: Data, meters: Meters) -> tuple[Uploads, Office]:
    uploads = Uploads(data.uploads, reserve_bytes=settings.reserve_mb << 20, most_bytes=settings.upload_gb << 30)
    return uploads, Office(settings, uploads, meters)


def _tokens(settings: ServiceSettings, data: Data) -> tuple[Tokens | None, str | None]:
    """The tokens, and the secret of one that was made now; no tokens where nobody is asked."""
    if settings.no_auth:
        return None, None
    tokens = Tokens.load(data.tokens, may_be_none=_is_of_this_machine(settings.host))
    if len(tokens) or tokens.are_not_asked_for:
        return tokens, None
    secret = Tokens.make(data.tokens, "first", ["admin"])
    return tokens, secret


def _where(settings: ServiceSettings, port: int, secret: str | None) -> str:
    everywhere = settings.host in EVERYWHERE
    host = "127.0.0.1" if everywhere else settings.host
    address = f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
    more = "\nIt answers at every other address of this machine, too." if everywhere else ""
    gone = [f"{path} ({name})" for name, path in (settings.root or {}).items() if not Path(path).is_dir()]
    if gone:
        more += f"\nThese roots are no folders at the moment: {', '.join(gone)}."
    if secret is None:
        return f"gpu-extract serves {address}{more}"
    return (
        f"gpu-extract serves {address}#token={secret}{more}\n"
        f"The token is shown this once; who has it may do everything. {Data(settings.data).tokens} keeps its digest."
    )


def _is_of_this_machine(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections; raises DeviceError if the address cannot be had."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        # With the protocol's number: without it asyncio lets an answer's second packet wait for a word of the client.
        listening = socket.socket(*found[:3])
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(found[4])
        listening.listen(BACKLOG)
    except OSError as error:
        raise DeviceError(f"port {port} of {host} cannot be had: {error.strerror}.") from error
    listening.set_inheritable(False)
    return listening


def _sweep(office: Office, uploads: Uploads, ended: threading.Event) -> None:
    """Remove what nobody needs any more, every few minutes."""
    while not ended.wait(SWEEP_SECONDS):
        try:
            office.sweep(time.time())
            uploads.expire()
        except Exception:
            log.exception("the janitor was kept from its work")
