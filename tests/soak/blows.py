"""What strikes our own processes and their stores, one blow every few seconds, by a seed."""

import heapq
import itertools
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable

import redis

from tests.soak.deployment import SoakDeployment
from tests.soak.recovery import Observer

PAUSE_SECONDS = (6.0, 18.0)
STOPPED_SECONDS = {"worker": (33.0, 45.0), "scheduler": (10.0, 40.0), "web": (3.0, 15.0)}
"""A worker is stopped for longer than its leases last."""
DRAIN_SECONDS = 25.0
REDIS_RESTART_SECONDS = (0.5, 3.0)
REDIS_OUTAGE_SECONDS = (5.0, 60.0)
REDIS_FULL_SECONDS = (3.0, 12.0)
POSTGRES_SECONDS = (0.5, 6.0)
SPOOL_SECONDS = (3.0, 12.0)
EXIT_SECONDS = 30.0
STARTING_SECONDS = 15.0
"""How long a process may take until it has its signal handlers."""
LOOK_SECONDS = 0.1
GONE = ".gone"

WEIGHTS = {
    "kill worker": 24,
    "kill scheduler": 10,
    "kill web": 10,
    "stop worker": 6,
    "stop scheduler": 4,
    "stop web": 4,
    "terminate worker": 6,
    "terminate scheduler": 4,
    "terminate web": 5,
    "flush redis": 12,
    "restart redis": 8,
    "redis outage": 3,
    "redis full": 3,
    "restart postgresql": 5,
    "spool away": 6,
}


class Blows:
    """Strikes from the thread that made the deployment, since restarts belong to it.

    While a store is away nothing else is struck, nor a process whose twin is stopped or about to
    end: how long it takes until work goes on is asked where somebody is left to do it. A process
    that dies by itself is started again, as a platform would, and that is wrong unless a store was
    away.
    """

    def __init__(
        self,
        deployment: SoakDeployment,
        observer: Observer,
        seed: int,
        say: Callable[[str], None],
    ) -> None:
        self.struck: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.deaths: Counter[str] = Counter()
        self._deployment = deployment
        self._observer = observer
        self._say = say
        self._random = random.Random(seed)
        self._numbers = itertools.count()
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._busy: set[str] = set()
        self._started_by: dict[str, float] = {}
        self._store_away = False

    def fall(self, seconds: float) -> None:
        """Blow after blow for so long; in the end everything runs again."""
        ends_at = time.monotonic() + seconds
        next_at = time.monotonic() + self._random.uniform(*PAUSE_SECONDS)
        while time.monotonic() < ends_at:
            self._pass_time()
            if time.monotonic() >= next_at and not self._store_away:
                self._strike()
                next_at = time.monotonic() + self._random.uniform(*PAUSE_SECONDS)
        while self._later:
            self._pass_time()

    def _pass_time(self) -> None:
        time.sleep(LOOK_SECONDS)
        while self._later and self._later[0][0] <= time.monotonic():
            heapq.heappop(self._later)[2]()
        for name in self._deployment.formation:
            if name not in self._busy and not self._deployment.processes.alive(name):
                self._revive(name)

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._later, (time.monotonic() + seconds, next(self._numbers), action))

    def _strike(self) -> None:
        (blow,) = self._random.choices(list(WEIGHTS), list(WEIGHTS.values()))
        stores: dict[str, Callable[[], None]] = {
            "flush redis": self._flush,
            "restart redis": lambda: self._break_redis(blow, REDIS_RESTART_SECONDS),
            "redis outage": lambda: self._break_redis(blow, REDIS_OUTAGE_SECONDS),
            "redis full": self._fill_redis,
            "restart postgresql": self._break_postgres,
            "spool away": self._take_spool,
        }
        if blow in stores:
            self._say(blow)
            self.struck[blow] += 1
            stores[blow]()
            return
        verb, _, process = blow.partition(" ")
        names = [name for name in self._deployment.formation if name.partition("-")[0] == process]
        if self._busy.isdisjoint(names):
            name = self._random.choice(names)
            self._say(f"{blow}: {name}")
            self.struck[blow] += 1
            verbs = {"kill": self._kill, "stop": self._stop, "terminate": self._terminate}
            verbs[verb](blow, name)

    def _kill(self, blow: str, name: str) -> None:
        processes = self._deployment.processes
        processes.signal(name, signal.SIGKILL, group=True)
        processes.wait(name, EXIT_SECONDS)
        self._look_for(blow, name)
        self._start(name)

    def _stop(self, blow: str, name: str) -> None:
        self._busy.add(name)
        self._deployment.processes.signal(name, signal.SIGSTOP, group=True)
        self._look_for(blow, name)
        seconds = self._random.uniform(*STOPPED_SECONDS[name.partition("-")[0]])
        self._after(seconds, lambda: self._continue(name))

    def _continue(self, name: str) -> None:
        self._say(f"{name} goes on")
        self._deployment.processes.signal(name, signal.SIGCONT, group=True)
        self._busy.discard(name)

    def _look_for(self, blow: str, name: str) -> None:
        """Have it measured how long until what this process left goes on."""
        process = name.partition("-")[0]
        if process == "worker":
            self._observer.struck(blow, leases=True)
        elif process == "scheduler":
            self._observer.struck(blow, sweep=True)
        else:
            self._observer.struck_web(blow, self._deployment.web_urls[name])

    def _terminate(self, _blow: str, name: str) -> None:
        self._busy.add(name)
        self._deployment.processes.signal(name, signal.SIGTERM)
        self._after(LOOK_SECONDS, lambda: self._await_exit(name, time.monotonic()))

    def _await_exit(self, name: str, asked_at: float) -> None:
        processes = self._deployment.processes
        waited = time.monotonic() - asked_at
        if processes.alive(name) and waited < EXIT_SECONDS:
            self._after(LOOK_SECONDS, lambda: self._await_exit(name, asked_at))
            return
        processes.signal(name, signal.SIGKILL, group=True)
        status = processes.wait(name, EXIT_SECONDS)
        # One that has no handler yet ends of the signal itself, and has taken nothing up.
        if status == -signal.SIGTERM and asked_at < self._started_by.get(name, 0.0):
            status = 0
        if (status or waited > DRAIN_SECONDS) and not self._observer.was_hindered(asked_at):
            self.wrong.append(f"{name} ended with {status} {waited:.1f} s after SIGTERM")
        self._busy.discard(name)
        self._start(name)

    def _start(self, name: str) -> None:
        self._started_by[name] = time.monotonic() + STARTING_SECONDS
        self._deployment.start(name.partition("-")[0], name)

    def _revive(self, name: str) -> None:
        status = self._deployment.processes.wait(name, EXIT_SECONDS)
        self._say(f"{name} died by itself with {status}")
        self.deaths[f"{name} with {status}"] += 1
        if not self._observer.was_hindered(time.monotonic() - EXIT_SECONDS):
            self.wrong.append(f"{name} died by itself with {status}")
        self._deployment.processes.signal(name, signal.SIGKILL, group=True)
        self._start(name)

    def _flush(self) -> None:
        with self._redis() as client:
            client.flushall()
        self._observer.struck("flush redis", due=True)

    def _fill_redis(self) -> None:
        """Redis refuses whatever would need memory."""
        self._limit_redis(1)
        self._store_goes()
        self._after(self._random.uniform(*REDIS_FULL_SECONDS), self._empty_redis)

    def _empty_redis(self) -> None:
        self._limit_redis(0)
        self._store_returns("redis full")

    def _limit_redis(self, bytes_most: int) -> None:
        with self._redis() as client:
            client.config_set("maxmemory", bytes_most)

    def _redis(self) -> redis.Redis:
        return redis.Redis.from_url(self._deployment.redis.url(), socket_timeout=5)

    def _break_redis(self, blow: str, seconds: tuple[float, float]) -> None:
        self._deployment.redis.kill()
        self._store_goes()
        self._after(self._random.uniform(*seconds), lambda: self._mend_redis(blow))

    def _mend_redis(self, blow: str) -> None:
        self._deployment.redis.start()
        self._store_returns(blow)

    def _break_postgres(self) -> None:
        self._deployment.postgres.kill()
        self._store_goes()
        self._after(self._random.uniform(*POSTGRES_SECONDS), self._mend_postgres)

    def _mend_postgres(self) -> None:
        self._deployment.postgres.start()
        self._store_returns("restart postgresql")

    def _take_spool(self) -> None:
        """What a full disk does to whoever spools, without filling the disk of this machine."""
        for spool in self._deployment.spools():
            spool.rename(spool.with_suffix(GONE))
        self._store_goes()
        self._after(self._random.uniform(*SPOOL_SECONDS), self._give_spool)

    def _give_spool(self) -> None:
        for gone in self._deployment.spools(GONE):
            spool = gone.with_suffix("")
            # A worker that was started meanwhile has made itself another.
            if spool.exists():
                shutil.rmtree(gone)
            else:
                gone.rename(spool)
        self._store_returns("spool away")

    def _store_goes(self) -> None:
        self._store_away = True
        self._observer.store_away()

    def _store_returns(self, blow: str) -> None:
        self._say(f"{blow}: over")
        self._store_away = False
        self._observer.store_back()
        self._observer.struck(blow, due=True)
