"""`python -m local.simulator`: serves until SIGTERM or SIGINT, and says on stdout where."""

import argparse
import json
import signal
import sys
from pathlib import Path

import gevent
from gevent import socket
from gevent.pywsgi import WSGIServer

from local.simulator.app import build, create_app
from local.simulator.knobs import BadKnob, Knobs
from local.simulator.store import Store

SAVE_EVERY_SECONDS = 1.0


def _knob(text: str) -> tuple[str, object]:
    name, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError("name=value is wanted")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m local.simulator", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9090, help="0 takes a free one")
    parser.add_argument("--state", type=Path, help="file that keeps everything over a restart")
    parser.add_argument(
        "--knob", type=_knob, action="append", default=[], metavar="NAME=VALUE", help="value: JSON"
    )
    return parser.parse_args()


def _say(event: str, **facts: object) -> None:
    sys.stdout.write(json.dumps({"event": event, **facts}) + "\n")
    sys.stdout.flush()


def _listen(host: str, port: int) -> socket.socket:
    listener = WSGIServer.get_listener((host, port), backlog=1024, family=socket.AF_INET)
    # Accepted sockets inherit it: a head and a body sent apart must not wait for an ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _keep_saving(store: Store) -> None:
    while True:
        gevent.sleep(SAVE_EVERY_SECONDS)
        store.save()


def main() -> int:
    arguments = _arguments()
    try:
        knobs = Knobs(dict(arguments.knob))
    except BadKnob as error:
        _say("simulator.refused", reason=str(error))
        return 2
    store = Store(arguments.state)
    simulator = build(store, knobs)
    listener = _listen(arguments.host, arguments.port)
    server = WSGIServer(listener, create_app(simulator), log=None)
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(signal_number, server.stop, 0.1)
    server.start()
    simulator.engine.resume()
    saver = gevent.spawn(_keep_saving, store)
    _say("simulator.listening", port=listener.getsockname()[1])
    server.serve_forever()
    saver.kill()
    simulator.engine.stop()
    store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
