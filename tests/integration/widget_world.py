"""Publishable keys for the tests: made as their owners make them, used as pages use them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from werkzeug.test import TestResponse

from tests.integration.web_world import SAYS_HI, Customer, Web
from web.state import EXTENSION

CHAT, KEY = "/ai/chat", "/ai/widget/key"
BODY: Mapping[str, Any] = {"model": "gpt-4o-mini", "messages": SAYS_HI}
PAGE = "https://app.example.com"


def made(web: Web, customer: Customer, **terms: Any) -> str:
    """A new publishable key of the customer's."""
    response = web.client(customer).post(KEY, json=terms)
    assert response.status_code == 200, response.text
    text: str = response.get_json()["key"]
    return text


def listed(web: Web, customer: Customer) -> list[dict[str, Any]]:
    """The customer's publishable keys, newest first."""
    keys: list[dict[str, Any]] = web.client(customer).get(KEY).get_json()["keys"]
    return keys


def ask(
    web: Web,
    key: str,
    body: Mapping[str, Any] = BODY,
    *,
    origin: str | None = None,
    address: str = "192.0.2.1",
    **headers: str,
) -> TestResponse:
    """What a visitor of a page is answered."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if origin is not None:
        sent["Origin"] = origin
    return web.app.test_client().post(
        CHAT,
        json=body,
        headers={"Authorization": f"Bearer {key}", **sent},
        environ_base={"REMOTE_ADDR": address},
    )


@contextmanager
def settings_of(web: Web, **changes: Any) -> Iterator[None]:
    """The process as it would be with other settings of the door."""
    parts = web.state
    changed = replace(parts.house, settings=parts.house.settings.model_copy(update=changes))
    web.app.extensions[EXTENSION] = replace(parts, house=changed)
    yield
    web.app.extensions[EXTENSION] = parts


def flat(response: TestResponse) -> tuple[int, str]:
    """The status and the word of a flat error."""
    error = response.get_json()
    assert error.keys() == {"error", "message"}
    return response.status_code, error["error"]
