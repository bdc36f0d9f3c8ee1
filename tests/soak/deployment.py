"""The Procfile's processes twice over, each reaching what it needs through a proxy."""

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from local.environment import simulated_providers
from local.processes import free_port
from tests.acceptance.deployment import SETTINGS, Deployment
from tests.soak.proxy import Proxies, Proxy

# The lease of 30 s and the sweep of 10 s are the production defaults: recovery is measured as it
# would be there. Only what makes work come in more and smaller pieces is shortened.
SOAK_SETTINGS: Mapping[str, str] = {
    **SETTINGS,
    "WEB_CONCURRENCY": "1",
    "BATCH_WINDOW_SECONDS": "4",
    "BATCH_POLL_SECONDS": "2",
    "BATCH_DOUBT_SECONDS": "20",
    "SWEEP_SECONDS": "10",
}


class SoakDeployment(Deployment):
    """Two web processes, two workers and two schedulers. `proxies` must be running."""

    formation = ("web", "web-2", "worker", "worker-2", "scheduler", "scheduler-2")

    postgres_proxy: Proxy
    redis_proxy: Proxy
    provider_proxy: Proxy

    def __init__(self, proxies: Proxies) -> None:
        super().__init__(SOAK_SETTINGS)
        self._proxies = proxies
        self.web_urls = {"web": self.base_url, "web-2": f"http://127.0.0.1:{free_port()}"}

    def start(self, process: str, name: str | None = None) -> str:
        """As the deployment's own; every web process has its port."""
        url = self.web_urls.get(name or process)
        environ = {"PORT": url.rpartition(":")[2]} if url else None
        return self.processes.start(process, name=name, environ=environ)

    def _start_services(self, simulator_port: int) -> dict[str, str]:
        urls = super()._start_services(simulator_port)
        database, _, query = urls["DATABASE_URL"].rpartition("/")[2].partition("?")
        socket_path = f"{unquote(query.removeprefix('host='))}/.s.PGSQL.5432"
        self.postgres_proxy = self._proxies.to_unix("postgresql", socket_path)
        redis = urlsplit(urls["REDIS_URL"])
        assert redis.port is not None
        self.redis_proxy = self._proxies.to_tcp("redis", redis.port)
        self.provider_proxy = self._proxies.to_tcp("provider", simulator_port)
        return {
            **simulated_providers(self.provider_proxy.port),
            "REDIS_URL": urls["REDIS_URL"].replace(f":{redis.port}/", f":{self.redis_proxy.port}/"),
            "DATABASE_URL": (
                f"postgresql://postgres@127.0.0.1:{self.postgres_proxy.port}/{database}"
            ),
        }

    def spools(self, suffix: str = "") -> list[Path]:
        """The folder that the workers spool to, where it is there; with `suffix`, moved aside."""
        return [
            path
            for path in self._directory.glob(f"tmp/offpeak-spool-*{suffix}")
            if path.suffix == suffix
        ]

    def redis_files(self) -> list[Path]:
        """What Redis has written down of all that it was told."""
        return [path for path in self._directory.glob("redis/appendonlydir/*") if path.is_file()]
