"""`python -m local.with_postgres -- COMMAND…` runs a command against a throw-away PostgreSQL.

DATABASE_URL names an empty database in its environment. Exits with the command's status.
"""

import os
import subprocess
import sys

from local.postgres import temporary_postgres
from local.processes import LocalServiceError


def main(arguments: list[str]) -> int:
    """Returns the exit status: the command's, 1 without PostgreSQL, 2 without a command."""
    command = arguments[1:] if arguments[:1] == ["--"] else arguments
    if not command:
        print("usage: python -m local.with_postgres -- COMMAND…", file=sys.stderr)
        return 2
    try:
        with temporary_postgres() as server:
            environ = {**os.environ, "DATABASE_URL": server.url()}
            return subprocess.run(command, env=environ, check=False).returncode
    except LocalServiceError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
