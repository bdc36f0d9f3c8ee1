import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.keys import (
    ALPHABET,
    PREFIX,
    KeyDigest,
    checksum,
    generate,
    is_well_formed,
)

KNOWN = "sk-op-" + "0" * 26 + checksum("0" * 26)


def test_a_key_has_the_documented_shape() -> None:
    for _ in range(50):
        assert re.fullmatch(r"sk-op-[0-9A-Za-z]{32}", generate())


def test_every_generated_key_is_well_formed_and_none_comes_twice() -> None:
    keys = {generate() for _ in range(500)}
    assert len(keys) == 500
    assert all(map(is_well_formed, keys))


def test_the_checksum_is_crc32_in_base_62() -> None:
    # CRC-32 of "123456789" is 0xCBF43926, the check value that the CRC catalogues give.
    number = 0
    for character in checksum("123456789"):
        number = number * 62 + ALPHABET.index(character)
    assert number == 0xCBF43926


@given(st.integers(0, 31), st.sampled_from(string.ascii_letters + string.digits))
def test_one_mistyped_character_is_found_without_a_look_up(place: int, character: str) -> None:
    body = KNOWN.removeprefix(PREFIX)
    mistyped = PREFIX + body[:place] + character + body[place + 1 :]
    assert is_well_formed(mistyped) == (mistyped == KNOWN)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sk-op-",
        KNOWN[:-1],
        KNOWN + "0",
        KNOWN.upper(),
        KNOWN.removeprefix("sk-"),
        "sk-ng-" + KNOWN.removeprefix(PREFIX),
        f" {KNOWN}",
        "sk-op-" + "é" * 32,
        "sk-op-" + "\x00" * 32,
        "sk-op-" + "٣" * 32,
    ],
)
def test_what_has_another_shape_is_no_key(text: str) -> None:
    assert not is_well_formed(text)


def test_the_digest_depends_on_the_key_and_on_the_secret() -> None:
    digest = KeyDigest("s" * 32)
    assert len(digest(KNOWN)) == 32
    assert digest(KNOWN) == KeyDigest("s" * 32)(KNOWN)
    assert len({digest(KNOWN), digest(generate()), KeyDigest("t" * 32)(KNOWN)}) == 3
    assert KNOWN.encode() not in digest(KNOWN)
