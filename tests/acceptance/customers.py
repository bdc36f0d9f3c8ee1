"""`python -m tests.acceptance.customers N`: makes accounts and keys by the operator commands.

All in one process: to start one takes longer than to make all the accounts.
"""

import json
import sys

from flask.testing import FlaskCliRunner

from web import create_app

CREDIT_USD = "1000"
REQUESTS_PER_MINUTE = "1000000"
SPEND_LIMIT_USD = "1000000"


def _run(runner: FlaskCliRunner, *arguments: str) -> dict[str, str]:
    result = runner.invoke(args=[*arguments, "--json"])
    if result.exit_code != 0:
        raise SystemExit(f"{' '.join(arguments)}: {result.output}")
    answer: dict[str, str] = json.loads(result.stdout.splitlines()[-1])
    return answer


def main() -> None:
    """Prints a JSON object with account_id and api_key for each."""
    runner = create_app().test_cli_runner()
    for number in range(int(sys.argv[1])):
        account = _run(runner, "accounts", "create", f"customer-{number}", "--credit", CREDIT_USD)
        key = _run(
            runner,
            *("keys", "create", account["account_id"]),
            *("--requests-per-minute", REQUESTS_PER_MINUTE),
            *("--daily-usd", SPEND_LIMIT_USD, "--monthly-usd", SPEND_LIMIT_USD),
        )
        print(json.dumps({**account, **key}))


if __name__ == "__main__":
    main()
