"""How long callers are left without a word, and how long their streams are read without them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    """Times in seconds; the defaults are the service's, tests are in more of a hurry.

    `quiet` passes before an answer in one piece is kept alive, and `padding` between the spaces
    that do it: platforms such as Heroku cut a connection after 30 seconds without a byte.
    `comment` passes before a silent stream says that it lives. `stall` is how long a stream waits
    for a caller who does not read. A stream whose caller has left is read for `drain` more and up
    to `drain_bytes`, for the sake of its bill; both together end well before a hold expires.
    """

    quiet_seconds: float = 20.0
    padding_seconds: float = 15.0
    comment_seconds: float = 15.0
    stall_seconds: float = 30.0
    drain_seconds: float = 180.0
    drain_bytes: int = 8_000_000
