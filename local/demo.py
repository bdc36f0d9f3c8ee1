"""A demo account with credit and a key, made once through the operator commands."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from local.environment import write_private
from local.processes import LocalServiceError

CREDIT_USD = "25"
REQUESTS_PER_MINUTE = 600

_COMMAND_TIMEOUT_SECONDS = 60


@dataclass(frozen=True, slots=True)
class DemoAccount:
    """The account, and the key with the raised rate limit."""

    account_id: str
    key_id: str
    api_key: str


def ensure_demo(path: Path, base_url: str, environ: Mapping[str, str]) -> DemoAccount:
    """The account kept in `path`, or a new one if there is none or the database is another.

    The web process has to be ready at `base_url`. Raises LocalServiceError.
    """
    if path.exists():
        kept = DemoAccount(**json.loads(path.read_text()))
        if _is_known(kept.api_key, base_url):
            return kept
    account = _flask(environ, "accounts", "create", "demo", "--credit", CREDIT_USD)
    limit = str(REQUESTS_PER_MINUTE)
    key = _flask(
        environ,
        *("keys", "create", account["account_id"]),
        *("--name", "demo", "--requests-per-minute", limit),
    )
    made = DemoAccount(account["account_id"], key["key_id"], key["api_key"])
    write_private(path, json.dumps(asdict(made), indent=2) + "\n")
    return made


def instructions(demo: DemoAccount, base_url: str) -> str:
    """What to type to see an asynchronous job come and go."""
    body = json.dumps(
        {
            "model": "gpt-4o-mini",
            "prefer_async": True,
            "messages": [{"role": "user", "content": "Say hello from the night shift."}],
        }
    )
    return f"""\
offpeak is ready at {base_url}
Demo key: {demo.api_key} (made with ${CREDIT_USD} of credit)

Submit a job that runs at the batch price:

  curl -s {base_url}/v1/chat/completions \\
    -H 'Authorization: Bearer {demo.api_key}' -H 'Content-Type: application/json' \\
    -d '{body}'

Some seconds later, fetch it with its result:

  curl -s '{base_url}/v1/jobs?limit=1&include=result' \\
    -H 'Authorization: Bearer {demo.api_key}'
"""


def _is_known(api_key: str, base_url: str) -> bool:
    response = httpx.get(
        f"{base_url}/v1/models",
        headers={"Authorization": f"Bearer {api_key}"},
        timeout=30,
        trust_env=False,
    )
    return response.status_code != httpx.codes.UNAUTHORIZED


def _flask(environ: Mapping[str, str], *arguments: str) -> dict[str, Any]:
    """Run one operator command; its answer is the last line it prints, below any log lines."""
    command = [sys.executable, "-m", "flask", "--app", "web", *arguments, "--json"]
    done = subprocess.run(
        command,
        env=dict(environ),
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True,
        text=True,
        timeout=_COMMAND_TIMEOUT_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        shown = (done.stderr or done.stdout).strip()[-600:]
        raise LocalServiceError(f"flask {' '.join(arguments[:2])} failed: {shown}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer
