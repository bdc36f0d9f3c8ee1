"""`python -m tests.fuzz`: schemathesis makes requests from /openapi.json against the real service.

The Procfile's processes run on a PostgreSQL, a Redis and a provider simulator of their own. All
checks are on: no 5xx, no status, header, media type or body that is not documented, nothing
invalid accepted, nothing valid refused, no route open without its key. Exits 1 on any failure.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import httpx

from tests.acceptance.deployment import Deployment

HERE = Path(__file__).parent
WORKERS = "1"  # CPython 3.11 cannot compile in several threads, as schemathesis then does.
LARGEST_SEED = 2**32


def main() -> int:
    """Runs it; the exit status."""
    options = _options()
    with Deployment() as gateway:
        document = httpx.get(f"{gateway.base_url}/openapi.json", trust_env=False).json()
        operations = sum(len(methods) for methods in document["paths"].values())
        status = subprocess.run(
            [
                str(Path(sys.executable).with_name("schemathesis")),
                *("--config-file", str(HERE / "schemathesis.toml"), "run"),
                *(f"{gateway.base_url}/openapi.json", "--url", gateway.base_url),
                *("--header", f"Authorization: Bearer {gateway.accounts[0].api_key}"),
                *("--seed", str(options.seed), "--workers", WORKERS, "--no-color"),
                *("--checks", "all", "--max-examples", str(-(-options.cases // operations))),
            ],
            env={**os.environ, "SCHEMATHESIS_HOOKS": "tests.fuzz.hooks"},
            cwd=HERE.parents[1],
            check=False,
        ).returncode
        print(json.dumps({"seed": options.seed, "operations": operations, "status": status}))
        return status


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000, help="how many at least")
    parser.add_argument("--seed", type=int, default=1, help=f"below {LARGEST_SEED}")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
