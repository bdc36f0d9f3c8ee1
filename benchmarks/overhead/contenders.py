"""The gateways that are measured, each started on a free port before the same upstream.

Foreign ones are installed, on first use, into folders of their own below `.local/benchmarks`.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from gateway.access import accounts, keys
from gateway.billing import ledger
from gateway.house import build
from gateway.webhooks.signing import new_secret
from local.postgres import EmbeddedPostgres
from local.processes import free_port
from local.redis import EmbeddedRedis
from models.migrate import migrate
from models.session import transaction
from settings import load

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".local" / "benchmarks"
MODEL = "gpt-4o-mini"
START_SECONDS = 120.0
ACCOUNTS = 100
CREDIT_NANOS = 10**15
PLENTY_A_MINUTE = 10**9

NGINX = """
worker_processes 1;
daemon off;
pid {folder}/pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000000;
    upstream provider {{ server {upstream}; keepalive 512; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://provider;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Contender:
    """A gateway that is running: where to call it, with which keys, and its process.

    `besides` are the processes it needs and shares with nobody (a database), counted apart.
    """

    name: str
    url: str
    headers: tuple[Mapping[str, str], ...]
    process: psutil.Process | None
    besides: psutil.Process | None = None

    def cpu_seconds(self) -> float:
        """CPU time so far of the gateway with all its children."""
        return 0.0 if self.process is None else _cpu_seconds(self.process)

    def besides_seconds(self) -> float:
        """CPU time so far of what it needs besides."""
        return 0.0 if self.besides is None else _cpu_seconds(self.besides)

    def megabytes(self) -> float:
        """Memory of the gateway with all its children: what is theirs alone."""
        if self.process is None:
            return 0.0
        return sum(each.memory_full_info().uss for each in _family(self.process)) / 1e6


def _family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def _cpu_seconds(process: psutil.Process) -> float:
    times = [each.cpu_times() for each in _family(process)]
    return float(sum(each.user + each.system for each in times))


@contextmanager
def upstream() -> Iterator[str]:
    """The provider; `host:port`."""
    command = [sys.executable, "-m", "benchmarks.overhead.upstream"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextmanager
def direct(upstream: str) -> Iterator[Contender]:
    """No gateway at all."""
    yield Contender("direct", _chat(f"http://{upstream}"), ({},), None)


@contextmanager
def nginx(upstream: str) -> Iterator[Contender]:
    """nginx as a plain proxy, one worker. Raises LookupError where there is none."""
    program = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
    if program is None:
        raise LookupError("nginx is not on the PATH")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "nginx.conf"
        config.write_text(NGINX.format(folder=folder, port=port, upstream=upstream))
        with _started([program, "-c", str(config), "-p", folder], port) as process:
            yield Contender("nginx", _chat(f"http://127.0.0.1:{port}"), ({},), process)


@contextmanager
def bare_flask(upstream: str) -> Iterator[Contender]:
    """The least that a Flask proxy does, under the same server as ours."""
    port = free_port()
    app = f"benchmarks.overhead.bare_flask:create_app('http://{upstream}/v1')"
    options = ["--worker-class", "gevent", "--workers", "1", "--worker-connections", "2000"]
    command = ["gunicorn", *options, "--keep-alive", "75", "--bind", f"127.0.0.1:{port}", app]
    with _started(command, port) as process:
        yield Contender("bare Flask + httpx", _chat(f"http://127.0.0.1:{port}"), ({},), process)


@contextmanager
def litellm(upstream: str) -> Iterator[Contender]:
    """LiteLLM's proxy, one worker, without a database."""
    venv = FOLDER / "litellm"
    if not (venv / "bin" / "litellm").exists():
        _install([sys.executable, "-m", "venv", str(venv)])
        _install([str(venv / "bin" / "pip"), "install", "--quiet", "litellm[proxy]"])
    port = free_port()
    parameters = {
        "model": f"openai/{MODEL}",
        "api_base": f"http://{upstream}/v1",
        "api_key": "simulated",
    }
    settings = {"model_list": [{"model_name": MODEL, "litellm_params": parameters}]}
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(json.dumps(settings))  # JSON is YAML.
        command = [str(venv / "bin" / "litellm"), "--config", str(config), "--port", str(port)]
        more = {
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_LOG": "ERROR",
            # It keeps no keys here, as Portkey does not.
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        }
        command += ["--host", "127.0.0.1", "--num_workers", "1"]
        with _started(command, port, more) as process:
            yield Contender("LiteLLM", _chat(f"http://127.0.0.1:{port}"), ({},), process)


@contextmanager
def portkey(upstream: str) -> Iterator[Contender]:
    """The Portkey gateway from npm; it keeps no keys and no money."""
    folder = FOLDER / "portkey"
    script = folder / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    if not script.exists():
        folder.mkdir(parents=True, exist_ok=True)
        options = ["--prefix", str(folder), "--no-fund", "--no-audit", "--silent"]
        _install(["npm", "install", *options, "@portkey-ai/gateway"])
    port = free_port()
    headers = {
        "Authorization": "Bearer simulated",
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"http://{upstream}/v1",
    }
    more = {"TRUSTED_CUSTOM_HOSTS": upstream.partition(":")[0]}
    command = ["node", str(script), f"--port={port}", "--headless"]
    with _started(command, port, more) as process:
        yield Contender("Portkey", _chat(f"http://127.0.0.1:{port}"), (headers,), process)


@contextmanager
def offpeak(upstream: str) -> Iterator[Contender]:
    """Ours, one web process, everything on and durable; calls of 100 accounts in turn."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="offpeak-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o711)  # The database's user must be able to pass, when we are root.
        postgres = EmbeddedPostgres(folder / "postgres")
        stack.callback(shutil.rmtree, postgres.data_directory.parent, ignore_errors=True)
        stack.callback(postgres.stop)
        redis = EmbeddedRedis(folder / "redis")
        stack.callback(redis.stop)
        port = free_port()
        environ = {
            "DATABASE_URL": postgres.start(),
            "REDIS_URL": redis.start(),
            "PORT": str(port),
            "WEB_CONCURRENCY": "1",
            "SECRET_KEY": secrets.token_hex(16),
            "ENCRYPTION_KEY": secrets.token_hex(16),
            "OPENAI_API_KEY": "simulated",
            "OPENAI_BASE_URL": f"http://{upstream}/v1",
        }
        migrate(environ["DATABASE_URL"])
        headers = tuple({"Authorization": f"Bearer {key}"} for key in _keys(environ))
        command = ["gunicorn", "--config", "web/server.py", "web:create_app()"]
        with _started(command, port, environ) as process:
            assert postgres.pid is not None
            database = psutil.Process(postgres.pid)
            url = _chat(f"http://127.0.0.1:{port}")
            yield Contender("offpeak", url, headers, process, database)


CONTENDERS: Mapping[str, Callable[[str], AbstractContextManager[Contender]]] = {
    "direct": direct,
    "nginx": nginx,
    "flask": bare_flask,
    "portkey": portkey,
    "litellm": litellm,
    "offpeak": offpeak,
}


def _keys(environ: Mapping[str, str]) -> list[str]:
    """A key of each of 100 accounts that can pay."""
    house = build(load(environ), name="offpeak-benchmark", pool_size=1)
    texts = []
    with transaction(house.engine) as session:
        for number in range(ACCOUNTS):
            vault, secret = house.webhook_vault, new_secret()
            account_id = accounts.create(session, vault, f"account {number}", secret)
            ledger.deposit(session, account_id, CREDIT_NANOS, "for the benchmark")
            key = keys.create(
                session,
                house.digest,
                account_id,
                requests_per_minute=PLENTY_A_MINUTE,
                daily_nanos=CREDIT_NANOS,
                monthly_nanos=CREDIT_NANOS,
            )
            texts.append(key.text)
    house.close()
    return texts


def _chat(base_url: str) -> str:
    return f"{base_url}/v1/chat/completions"


def _install(command: list[str]) -> None:
    print("$", " ".join(command), file=sys.stderr, flush=True)
    subprocess.run(command, check=True, stdout=sys.stderr)


@contextmanager
def _started(
    command: list[str], port: int, environ: Mapping[str, str] | None = None
) -> Iterator[psutil.Process]:
    """The command's process, once it answers on the port; ended with all its children."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **(environ or {})},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait(process, port, command[0])
            yield psutil.Process(process.pid)
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read().decode(errors="replace")[-3000:])
            raise
        finally:
            with suppress(ProcessLookupError):  # It may have ended by itself.
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _wait(process: "subprocess.Popen[bytes]", port: int, name: str) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"{name} ended with {process.returncode}")
        try:
            httpx.get(f"http://127.0.0.1:{port}/", timeout=5, trust_env=False)
        except httpx.TransportError:
            time.sleep(0.2)
        else:
            return
    raise TimeoutError(f"{name} does not answer")
