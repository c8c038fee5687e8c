"""A line to the server that can be cut, go silent, or lose an answer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum

from psycopg.conninfo import conninfo_to_dict

from .wire import Answers, Statements

__all__ = ["Mode", "Proxy", "open_proxy"]

CHUNK = 65_536
_CHATTER = (b"SET ", b"LISTEN ", b"NOTIFY ")
"""What begins so is nobody's work, and is not lost."""


class Mode(Enum):
    """What becomes of what is sent."""

    PASS = "pass"
    SWALLOW = "swallow"
    """It is taken, and nothing ever comes back."""


@dataclass
class Loss:
    """What is to be lost: the answer to a statement, or the statement itself."""

    text: bytes
    done: bool
    skip: int
    left: int

    def meets(self, texts: list[bytes]) -> bool:
        """Whether one of these statements is the one."""
        for text in texts:
            if self.text in text and not text.startswith(_CHATTER):
                self.skip -= 1
        if self.skip >= 0 or not self.left:
            return False
        self.skip = 0
        self.left -= 1
        return True


class Proxy:
    """Takes connections on a port of this machine, and leads each to the server.

    Args:
        url: of the server.
    """

    def __init__(self, url: str) -> None:
        given = conninfo_to_dict(url)
        host, port = str(given.get("host", "")), int(given.get("port") or 5432)
        self._target = f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port)
        self._lines: set[Line] = set()
        self._lock = threading.Lock()
        self._losses: list[Loss] = []
        self.mode = Mode.PASS
        """Of lines that are yet to come."""
        self.accepted = 0
        self.lost = 0
        """How many answers or statements were lost as it was asked for."""
        self._listener = _listen(0)
        self.port: int = self._listener.getsockname()[1]
        user, database = given.get("user", "postgres"), given.get("dbname", "postgres")
        secret = f":{given['password']}" if given.get("password") else ""
        self.url = f"postgresql://{user}{secret}@127.0.0.1:{self.port}/{database}"
        self._start()

    def lose(self, text: bytes = b"", *, done: bool = True, skip: int = 0, times: int = 1) -> None:
        """Cut the line at the next statement with this text.

        Args:
            text: a part of the statement.
            done: the server does it, and its answer is lost; else it never hears of it.
            skip: so many such statements are carried out before.
            times: how often.
        """
        with self._lock:
            self._losses.append(Loss(text, done, skip, times))

    def keep(self) -> None:
        """Lose nothing any more."""
        with self._lock:
            self._losses.clear()

    def swallow(self, *, new: bool = True) -> None:
        """Every line that there is goes silent; with ``new`` those that come are silent too."""
        self.mode = Mode.SWALLOW if new else self.mode
        for line in self.lines():
            line.mode = Mode.SWALLOW

    def heal(self) -> None:
        """Lines that come are whole again; those that went silent stay so."""
        self.mode = Mode.PASS

    def cut(self) -> None:
        """Cut every line that there is."""
        for line in self.lines():
            line.cut()

    def refuse(self) -> None:
        """Nobody listens any more; lines that there are stay."""
        # Else the thread in `accept` would take one more.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def accept(self) -> None:
        """Listen again."""
        self._listener = _listen(self.port)
        self._start()

    def lines(self) -> list[Line]:
        """Those that are not cut."""
        with self._lock:
            return list(self._lines)

    def close(self) -> None:
        """Cut everything, and end the threads."""
        self.refuse()
        lines = self.lines()
        self.cut()
        for line in lines:
            line.join()

    def is_lost(self, texts: list[bytes]) -> Loss | None:
        """Whether one of these statements, or the answer to it, is to be lost."""
        with self._lock:
            for loss in self._losses:
                if loss.meets(texts):
                    self.lost += 1
                    return loss
        return None

    def forget(self, line: Line) -> None:
        """A line was cut."""
        with self._lock:
            self._lines.discard(line)

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._take_all, name="proxy", daemon=True)
        self._thread.start()

    def _take_all(self) -> None:
        with suppress(OSError):  # it was closed
            while True:
                client, _ = self._listener.accept()
                self.accepted += 1
                line = Line(self, client, self._target, self.mode)
                with self._lock:
                    self._lines.add(line)
                line.start()


class Line:
    """One connection of a client."""

    def __init__(
        self, proxy: Proxy, client: socket.socket, target: str | tuple[str, int], mode: Mode
    ) -> None:
        self.mode = mode
        self._proxy = proxy
        self._client = client
        self._target = target
        self._server: socket.socket | None = None
        self._statements = Statements()
        self._losing = False
        self._is_cut = False
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin to carry."""
        self._spawn(self._run)

    def join(self) -> None:
        """Wait until it has ended."""
        for thread in self._threads:
            thread.join()

    def cut(self) -> None:
        """Both ends see that the other one is gone."""
        self._is_cut = True
        self._proxy.forget(self)
        for end in (self._client, self._server):
            if end is not None:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _spawn(self, run: object) -> None:
        thread = threading.Thread(target=run, name="proxy line", daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _run(self) -> None:
        is_unix = isinstance(self._target, str)
        server = socket.socket(socket.AF_UNIX if is_unix else socket.AF_INET)
        self._server = server
        answers = threading.Thread(target=self._answer, args=(server,), daemon=True)
        with suppress(OSError), self._client, server:
            try:
                server.connect(self._target)
                answers.start()
                self._ask(server)
            finally:
                self.cut()
            answers.join()

    def _ask(self, server: socket.socket) -> None:
        with suppress(OSError):
            while data := self._client.recv(CHUNK):
                loss = self._proxy.is_lost(self._statements.feed(data))
                if loss is not None:
                    if not loss.done:
                        return
                    self._losing = True
                if self.mode is Mode.PASS:
                    server.sendall(data)

    def _answer(self, server: socket.socket) -> None:
        answers = Answers(self._statements)
        with suppress(OSError):
            while data := server.recv(CHUNK):
                ended = answers.feed(data)
                if self._losing:
                    if ended:
                        break
                elif self.mode is Mode.PASS:
                    self._client.sendall(data)
        self.cut() if self.mode is Mode.PASS else self._proxy.forget(self)


def _listen(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(100)
    return listener


@contextmanager
def open_proxy(url: str) -> Iterator[Proxy]:
    """A proxy that is closed at the end of the block."""
    proxy = Proxy(url)
    try:
        yield proxy
    finally:
        proxy.close()
