"""A service that speaks like OpenAI and that only the catalogue knows the address of."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.catalogue.catalogue import OVERRIDES, load
from gateway.house import House, build
from gateway.providers.dialect import HOUSE, Endpoint
from settings import Settings, SettingsError
from tests.contract.simulator_process import SimulatorProcess, echo
from web import create_app
from workers.broker import setup

MODEL = "alibaba/qwen-3-32b"
BODY: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
SERVED = "gpt-4o-mini"
"""What the simulator knows; the catalogue's name for the model is the service's own."""


def house_with(tmp_path: Path, base_url: str, keys: str) -> House:
    """The house of an installation whose override file has one more table."""
    file = tmp_path / "overrides.toml"
    table = (
        f"\n[providers.cerebras]\nsource = 'cerebras'\nmaker = 'alibaba'\n"
        f"only = ['qwen-3-32b']\nbase_url = '{base_url}'\n"
    )
    file.write_bytes(OVERRIDES.read_bytes() + table.encode())
    settings = Settings.model_validate(
        {
            "database_url": "postgres://nobody@127.0.0.1:1/nothing",
            "redis_url": "redis://127.0.0.1:1",
            "secret_key": "s" * 32,
            "encryption_key": "e" * 32,
            "further_api_keys": keys,
        }
    )
    return build(settings, name="further", pool_size=1, catalogue=load(file))


def test_its_models_are_served_with_its_key_and_never_batched(
    tmp_path: Path, provider: SimulatorProcess
) -> None:
    house = house_with(tmp_path, provider.openai_url, "cerebras=csk-1")
    (route,) = house.router.routes(Endpoint.CHAT_COMPLETIONS, "qwen-3-32b", BODY)
    assert (route.model.id, route.offer.provider) == (MODEL, "cerebras")
    assert (route.credential.name, route.credential.api_key) == (HOUSE, "csk-1")
    assert MODEL in {model.id for model in house.router.models()}
    assert not any(route.dialect.batches(endpoint) for endpoint in Endpoint)
    answer = route.dialect.call(
        route.credential, Endpoint.CHAT_COMPLETIONS, SERVED, BODY, timeout_seconds=10
    )
    assert echo("hi") in answer.body["choices"][0]["message"]["content"]
    assert answer.usage is not None
    with route.dialect.stream(route.credential, SERVED, BODY, 10) as pieces:
        assert list(pieces)[-1].usage == answer.usage
    house.close()


def test_without_its_key_it_serves_nothing(tmp_path: Path) -> None:
    house = house_with(tmp_path, "https://api.example.com/v1", "")
    assert house.router.find(MODEL) is None
    house.close()


def test_a_key_for_a_service_whose_address_nobody_knows_refuses_to_boot(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="FURTHER_API_KEYS names nowhere") as caught:
        house_with(tmp_path, "https://api.example.com/v1", "cerebras=csk-1,nowhere=sk-secret")
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize("door", [create_app, setup])
def test_each_door_says_so_in_a_sentence(
    door: Callable[[], object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"DATABASE_URL": "postgresql://x/x", "REDIS_URL": "redis://127.0.0.1:1"}
    secrets = {"SECRET_KEY": "s" * 32, "ENCRYPTION_KEY": "e" * 32}
    for name, value in {**given, **secrets, "FURTHER_API_KEYS": "nowhere=sk-secret"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("workers.broker.logs.configure", lambda _level: None)
    monkeypatch.setattr("workers.broker.set_broker", lambda _broker: None)
    with pytest.raises(SystemExit) as ended:
        door()
    assert "FURTHER_API_KEYS names nowhere" in f"{ended.value} {capsys.readouterr().err}"
