"""The environment that the Procfile's processes get on one machine."""

import json
import os
import secrets
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from settings import PROVIDER_BASE_URLS, Settings

_DEFAULTS: Mapping[str, str] = {
    "PORT": "8000",
    "BATCH_WINDOW_SECONDS": "5",
    "BATCH_POLL_SECONDS": "2",
    "WEBHOOK_ALLOW_PRIVATE": "true",
}
_KEYS = ("SECRET_KEY", "ENCRYPTION_KEY")


def wants_simulator(environ: Mapping[str, str]) -> bool:
    """Whether no provider's key is set, so that the simulator has to answer."""
    named = [f"{name.upper()}_API_KEY" for name in PROVIDER_BASE_URLS]
    return not any(environ.get(name) for name in (*named, "FURTHER_API_KEYS"))


def simulated_providers(port: int) -> dict[str, str]:
    """What points the gateway at a simulator on this port."""
    return {
        "OPENAI_API_KEY": "sim-openai",
        "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1",
        "ANTHROPIC_API_KEY": "sim-anthropic",
        "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{port}",
        # Groq speaks like OpenAI, and serves the Llama models.
        "GROQ_API_KEY": "sim-groq",
        "GROQ_BASE_URL": f"http://127.0.0.1:{port}/v1",
        "SIMULATOR_METER_URL": f"http://127.0.0.1:{port}/_sim/meter",
    }


def complete(
    environ: Mapping[str, str], services: Mapping[str, str], state: Path
) -> dict[str, str]:
    """The caller's environment, what it leaves open filled in; an empty value is open.

    `services` are the variables of what was started here; keys are made once, in `state`.
    """
    chosen = {name: value for name, value in environ.items() if value}
    merged = {**_DEFAULTS, **services, **chosen}
    if any(name not in merged for name in _KEYS):
        merged = {**_kept_keys(state / "secrets.json"), **merged}
    binaries = str(Path(sys.executable).parent)
    merged["PATH"] = os.pathsep.join([binaries, environ.get("PATH", os.defpath)])
    merged["PYTHONUNBUFFERED"] = "1"
    return merged


def write_exports(environ: Mapping[str, str], path: Path) -> None:
    """Write the service's variables as a file to source, for the operator commands."""
    names = [field.upper() for field in Settings.model_fields]
    lines = [f"export {name}={shlex.quote(environ[name])}" for name in names if name in environ]
    lines.append(f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"')
    write_private(path, "\n".join(lines) + "\n")


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    unfinished = path.with_name(f"{path.name}.new")
    unfinished.unlink(missing_ok=True)
    unfinished.touch(mode=0o600)
    unfinished.write_text(text)
    unfinished.replace(path)


def _kept_keys(path: Path) -> dict[str, str]:
    if not path.exists():
        write_private(path, json.dumps({name: secrets.token_urlsafe(48) for name in _KEYS}))
    kept: dict[str, str] = json.loads(path.read_text())
    return kept
