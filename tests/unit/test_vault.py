from uuid import UUID

import pytest

from gateway.access.vault import (
    KEY_ID_BYTES,
    NONCE_BYTES,
    VERSION,
    SealBroken,
    Vault,
    derive_key,
)

MINE, THEIRS = UUID(int=1), UUID(int=2)
KEY, OTHER_KEY = "k" * 32, "j" * 32
SECRET = "whsec_geheim-ü"


@pytest.fixture
def vault() -> Vault:
    return Vault(KEY, "webhook-secret")


def test_what_is_sealed_opens_again(vault: Vault) -> None:
    assert vault.open(MINE, vault.seal(MINE, SECRET)) == SECRET
    assert Vault(KEY, "webhook-secret").open(MINE, vault.seal(MINE, "")) == ""


def test_the_sealed_value_tells_nothing_and_is_never_the_same(vault: Vault) -> None:
    sealed = {vault.seal(MINE, SECRET) for _ in range(20)}
    assert len(sealed) == 20
    assert not any(SECRET.encode() in each for each in sealed)
    assert {each[: 1 + KEY_ID_BYTES] for each in sealed} == {vault.mark}
    assert vault.mark.startswith(VERSION)
    length = len(vault.mark) + NONCE_BYTES + len(SECRET.encode()) + 16
    assert {len(each) for each in sealed} == {length}


def test_a_value_moved_to_another_owner_does_not_open(vault: Vault) -> None:
    with pytest.raises(SealBroken):
        vault.open(THEIRS, vault.seal(MINE, SECRET))


def test_a_value_sealed_for_another_purpose_does_not_open(vault: Vault) -> None:
    with pytest.raises(SealBroken):
        Vault(KEY, "provider-key").open(MINE, vault.seal(MINE, SECRET))


def test_a_value_sealed_under_another_key_does_not_open(vault: Vault) -> None:
    with pytest.raises(SealBroken):
        Vault(OTHER_KEY, "webhook-secret").open(MINE, vault.seal(MINE, SECRET))


@pytest.mark.parametrize(
    "context", [("openai", "2"), ("anthropic", "1"), ("openai",), ("openai1", ""), ("open", "ai1")]
)
def test_a_value_sealed_in_another_context_does_not_open(
    vault: Vault, context: tuple[str, ...]
) -> None:
    sealed = vault.seal(MINE, SECRET, "openai", "1")
    assert vault.open(MINE, sealed, "openai", "1") == SECRET
    with pytest.raises(SealBroken):
        vault.open(MINE, sealed, *context)
    with pytest.raises(SealBroken):
        vault.open(MINE, sealed)


def test_another_key_may_open_and_never_seals() -> None:
    old = Vault(OTHER_KEY, "webhook-secret")
    changing = Vault(KEY, "webhook-secret", OTHER_KEY)
    assert changing.open(MINE, old.seal(MINE, SECRET)) == SECRET
    fresh = changing.seal(MINE, SECRET)
    assert fresh.startswith(changing.mark)
    assert Vault(KEY, "webhook-secret").open(MINE, fresh) == SECRET
    with pytest.raises(SealBroken):
        old.open(MINE, fresh)


def test_the_mark_tells_keys_apart_and_is_the_same_for_all_that_one_key_seals() -> None:
    vaults = [Vault(KEY, "a"), Vault(KEY, "b", OTHER_KEY), Vault(OTHER_KEY, "a", KEY)]
    assert [vault.mark == vaults[0].mark for vault in vaults] == [True, True, False]


def test_any_changed_bit_is_found(vault: Vault) -> None:
    sealed = vault.seal(MINE, "s")
    for number in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[number // 8] ^= 1 << number % 8
        with pytest.raises(SealBroken):
            vault.open(MINE, bytes(changed))


@pytest.mark.parametrize("length", [0, 1, 12, 13, 28])
def test_a_value_cut_short_does_not_open(vault: Vault, length: int) -> None:
    with pytest.raises(SealBroken):
        vault.open(MINE, vault.seal(MINE, SECRET)[:length])


def test_the_error_names_neither_the_secret_nor_the_key(vault: Vault) -> None:
    with pytest.raises(SealBroken) as caught:
        vault.open(THEIRS, vault.seal(MINE, SECRET))
    assert SECRET not in str(caught.value)
    assert KEY not in str(caught.value)


def test_a_key_is_derived_for_one_purpose_only() -> None:
    purposes = ("api-key-digest", "seal:webhook-secret", "session")
    derived = {derive_key(KEY, purpose) for purpose in purposes}
    assert len(derived) == len(purposes)
    assert {len(key) for key in derived} == {32}
    assert derive_key(KEY, "session") == derive_key(KEY, "session")
