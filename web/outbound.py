"""Calls to addresses that customers name, made by greenlets."""

import gevent

from gateway.net.guard import Dialler, LookUp
from gateway.webhooks.transport import GuardedTransport


def guarded_transport(allow_private: bool) -> GuardedTransport:
    """The guard's transport, of which no wait holds up the event loop."""
    return GuardedTransport(Dialler(allow_private, patience=_cooperatively))


def _cooperatively(timeout_seconds: float, look_up: LookUp) -> list[str]:
    """gevent looks names up on threads of its own; a native one here would stop every greenlet."""
    with gevent.Timeout(timeout_seconds, TimeoutError):
        return look_up()
