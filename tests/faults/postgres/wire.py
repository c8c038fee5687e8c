"""As much of the protocol of PostgreSQL as is needed to see which statement is carried out."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["Answers", "Statements"]

_NEGOTIATE = (80877103, 80877104)
"""A client asks for encryption; the answer is one byte."""
_READY = b"Z"


class Statements:
    """What a client says: the statements that it has carried out, by either protocol."""

    def __init__(self) -> None:
        self._rest = b""
        self._started = False
        self._prepared: dict[bytes, bytes] = {}
        self.negotiations = 0
        """How many answers of one byte are still to come from the server."""

    def feed(self, data: bytes) -> list[bytes]:
        """The texts of the statements that these bytes bring to an end."""
        self._rest += data
        return [text for message in self._messages() if (text := self._text(*message))]

    def _messages(self) -> Iterator[tuple[bytes, bytes]]:
        while True:
            head = 1 if self._started else 0
            if len(self._rest) < head + 4:
                return
            length = head + int.from_bytes(self._rest[head : head + 4])
            if len(self._rest) < length:
                return
            message, self._rest = self._rest[:length], self._rest[length:]
            if self._started:
                yield message[:1], message[5:]
            elif int.from_bytes(message[4:8]) in _NEGOTIATE:
                self.negotiations += 1
            else:
                self._started = True

    def _text(self, kind: bytes, body: bytes) -> bytes:
        if kind == b"Q":
            return body
        if kind == b"P":
            name, text, _ = body.split(b"\0", 2)
            self._prepared[name] = text
        if kind == b"B":
            _, name, _ = body.split(b"\0", 2)
            return self._prepared.get(name, b"")
        return b""


class Answers:
    """What a server says, as far as it tells where an answer ends."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements
        self._rest = b""

    def feed(self, data: bytes) -> bool:
        """Whether these bytes bring an answer to its end."""
        self._rest += data
        ended = False
        while self._statements.negotiations and self._rest:
            self._rest = self._rest[1:]
            self._statements.negotiations -= 1
        while len(self._rest) >= 5:
            length = 1 + int.from_bytes(self._rest[1:5])
            if len(self._rest) < length:
                break
            ended |= self._rest[:1] == _READY
            self._rest = self._rest[length:]
        return ended
