from uuid import UUID

import pytest

from gateway.access.vault import NONCE_BYTES, VERSION, SealBroken, Vault, derive_key

MINE, THEIRS = UUID(int=1), UUID(int=2)
KEY = "k" * 32
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
    assert {each[:1] for each in sealed} == {VERSION}
    assert {len(each) for each in sealed} == {1 + NONCE_BYTES + len(SECRET.encode()) + 16}


def test_a_value_moved_to_another_owner_does_not_open(vault: Vault) -> None:
    with pytest.raises(SealBroken):
        vault.open(THEIRS, vault.seal(MINE, SECRET))


def test_a_value_sealed_for_another_purpose_does_not_open(vault: Vault) -> None:
    with pytest.raises(SealBroken):
        Vault(KEY, "provider-key").open(MINE, vault.seal(MINE, SECRET))


def test_a_value_sealed_under_another_key_does_not_open(vault: Vault) -> None:
    with pytest.raises(SealBroken):
        Vault("j" * 32, "webhook-secret").open(MINE, vault.seal(MINE, SECRET))


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
