"""Publishable keys: their shape, who counts as one visitor, and that no key passes for another."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access import keys, widget_keys
from gateway.access.keys import ALPHABET, KeyDigest, checksum
from gateway.access.widget_keys import WidgetKeyDigest, generate, is_well_formed, visitor

KNOWN = "pk_" + "0" * 26 + checksum("pk_" + "0" * 26)


def test_a_key_has_the_documented_shape_and_none_comes_twice() -> None:
    made = {generate() for _ in range(500)}
    assert len(made) == 500
    assert all(re.fullmatch(r"pk_[0-9A-Za-z]{32}", key) for key in made)
    assert all(map(is_well_formed, made))


@given(st.integers(0, 31), st.sampled_from(ALPHABET))
def test_one_mistyped_character_is_found_without_a_look_up(place: int, character: str) -> None:
    mistyped = KNOWN[: place + 3] + character + KNOWN[place + 4 :]
    assert is_well_formed(mistyped) == (mistyped == KNOWN)


@pytest.mark.parametrize(
    "text",
    ["", "pk_", KNOWN[:-1], KNOWN + "0", KNOWN.upper(), f" {KNOWN}", "pk_" + "é" * 32, KNOWN[3:]],
)
def test_what_has_another_shape_is_no_key(text: str) -> None:
    assert not is_well_formed(text)


def test_neither_kind_of_key_passes_for_the_other_whatever_its_prefix() -> None:
    for _ in range(50):
        secret, publishable = keys.generate(), generate()
        assert not is_well_formed(secret)
        assert not keys.is_well_formed(publishable)
        assert not is_well_formed("pk_" + secret.removeprefix("sk-op-"))
        assert not keys.is_well_formed("sk-op-" + publishable.removeprefix("pk_"))


def test_one_text_has_another_digest_as_the_other_kind_of_key() -> None:
    secret = "s" * 32
    assert len({WidgetKeyDigest(secret)(KNOWN), KeyDigest(secret)(KNOWN)}) == 2
    assert WidgetKeyDigest(secret)(KNOWN) != WidgetKeyDigest("t" * 32)(KNOWN)
    assert KNOWN.encode() not in WidgetKeyDigest(secret)(KNOWN)


def test_a_preview_is_the_four_characters_of_the_page() -> None:
    assert re.fullmatch(r"pk_[0-9A-Za-z]{4}", widget_keys.preview(generate()))


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:aaaa::1", "2001:db8:1:2::"),
        ("2001:db8:1:2:bbbb::9", "2001:db8:1:2::"),
        ("2001:db8:1:3::1", "2001:db8:1:3::"),
        ("nonsense", "unknown"),
        ("", "unknown"),
        (None, "unknown"),
    ],
)
def test_a_visitor_is_an_address_or_a_network_of_ipv6(address: str | None, counted: str) -> None:
    assert visitor(address) == counted
