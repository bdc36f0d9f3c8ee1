"""Server-sent events, as far as providers use them: the data of each event, out of any chunks."""

from gateway.providers.dialect import Broken

EVENT_MAX_BYTES = 8 * 1024 * 1024


class EventReader:
    """Cuts a byte stream into the data of its events (WHATWG HTML, 9.2.6).

    Names, ids and comments are passed over: every provider says what an event is in its data.
    """

    def __init__(self, max_bytes: int = EVENT_MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._line: list[bytes] = []
        self._line_bytes = 0
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._after_return = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """The events that the chunk completes. Raises Broken for one that is too long."""
        if self._is_one_event(chunk):
            return [chunk[6:-2]]
        if self._after_return and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._after_return = False
        if b"\r" in chunk:
            # The other half of a line's end may come with the next chunk.
            self._after_return = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = chunk.split(b"\n")
        if lines and self._line:
            lines[0] = self._take_line() + lines[0]
        events = self._events(lines)
        if rest:
            self._line.append(rest)
            self._line_bytes += len(rest)
        if self._line_bytes + self._data_bytes > self._max_bytes:
            raise Broken("an event of the stream is too long")
        return events

    def rest(self) -> list[bytes]:
        """What is left when the stream has ended without the blank line after its last event."""
        return self._events([self._take_line(), b""])

    def _is_one_event(self, chunk: bytes) -> bool:
        """Whether the chunk is one event of one line, as nearly all of them are."""
        return (
            chunk.startswith(b"data: ")
            and chunk.find(b"\n") == len(chunk) - 2
            and chunk.endswith(b"\n")
            and not (self._line or self._data or b"\r" in chunk)
        )

    def _take_line(self) -> bytes:
        line = b"".join(self._line)
        self._line, self._line_bytes = [], 0
        return line

    def _events(self, lines: list[bytes]) -> list[bytes]:
        events = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[6:] if line.startswith(b"data: ") else line[5:])
                self._data_bytes += len(line)
            elif not line and self._data:
                events.append(b"\n".join(self._data))
                self._data, self._data_bytes = [], 0
        return events
