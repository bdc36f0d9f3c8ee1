"""Origins: what may be allowed, and what an allowed one stands for."""

import pytest

from settings.origins import check_origin, is_allowed


@pytest.mark.parametrize(
    "origin",
    [
        "https://app.example.com",
        "http://localhost:3000",
        "http://[::1]:3000",
        "https://*.example.com",
        "https://*.example.com:8443",
        "capacitor://localhost",
        "chrome-extension://abcdefghijklmnop",
        "HTTPS://App.Example.com",
    ],
)
def test_an_origin_is_taken_in_lower_case(origin: str) -> None:
    assert check_origin(origin) == origin.lower()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "*",
        "null",
        "example.com",
        "https://",
        "https://app.example.com/",
        "https://app.example.com/path",
        "https://user@app.example.com",
        "https://app.*.example.com",
        "https://a*.example.com",
        "https://*.com",
        "https://*",
        "https://app.example.com:443",
        "http://app.example.com:80",
        "https://app.example.com\n",
        "https://" + "a" * 300,
    ],
)
def test_what_no_browser_would_send_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        check_origin(text)


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://app.example.com", True),
        ("https://other.example.com", False),
        ("http://app.example.com", False),
        ("https://app.example.com:8443", False),
        ("https://app.example.com.evil.net", False),
        ("https://one.wild.net", True),
        ("https://two.wild.net", True),
        ("https://one.two.wild.net", False),
        ("https://wild.net", False),
        ("https://.wild.net", False),
        ("https://evilwild.net", False),
        ("https://one.wild.net:8443", False),
        ("null", False),
    ],
)
def test_an_origin_is_allowed_exactly_or_by_one_label(origin: str, allowed: bool) -> None:
    assert is_allowed(origin, ["https://app.example.com", "https://*.wild.net"]) == allowed
