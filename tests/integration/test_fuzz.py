"""A few of schemathesis' requests for every operation, always the same ones.

`python -m tests.fuzz` makes many more, of every kind, against the real processes.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.core.result import Ok

from tests import fuzz
from tests.integration.web_world import Customer, Web

CONFIG = Path(fuzz.__file__).with_name("schemathesis.toml")
EXAMPLES = 5


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_whatever_is_asked_the_answer_is_documented_and_no_fault_of_ours(
    web: Web, customer: Customer, mode: GenerationMode
) -> None:
    config = schemathesis.Config.from_path(CONFIG)
    schema = schemathesis.openapi.from_wsgi("/openapi.json", web.app, config=config)
    key = {"Authorization": f"Bearer {customer.api_key}"}
    expected, tried = set(), set()

    def ask(case: Case[Any]) -> None:
        tried.add(case.operation.label)
        case.call_and_validate(headers=key)

    for result in schema.get_all_operations():
        assert isinstance(result, Ok), result
        operation = result.ok()
        if mode is GenerationMode.POSITIVE or operation.body or operation.query:
            expected.add(operation.label)
        asked = given(operation.as_strategy(generation_mode=mode))(ask)
        limited = settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
        # Where nothing is asked for, nothing can be asked for wrongly.
        with suppress(Unsatisfiable):
            limited(asked)()
    assert tried >= expected
