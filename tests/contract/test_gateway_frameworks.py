"""LangChain, LlamaIndex, the SDK for Node and the Vercel AI SDK against the running gateway.

Each is a script as its users write it, in an environment of its own that `bin/setup test` makes.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.deployment import Deployment
from tests.contract.simulator_process import echo

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = Path(__file__).parent
PYTHON = ROOT / ".venv" / "frameworks" / "bin" / "python"
NODE = shutil.which("node")
OPENAI_MODEL, ANTHROPIC_MODEL = "openai/gpt-4o-mini", "anthropic/claude-haiku-5-5"

needs_node = pytest.mark.skipif(NODE is None, reason="there is no node on the PATH")


def run(gateway: Deployment, *command: str) -> dict[str, Any]:
    """What the script prints."""
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(SCRIPTS),
        "BASE_URL": f"{gateway.base_url}/v1",
        "API_KEY": gateway.accounts[0].api_key,
    }
    done = subprocess.run(
        command, env=environ, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def assert_all_four(got: dict[str, Any]) -> None:
    """A chat, a stream in pieces, a tool call, embeddings."""
    assert echo("good morning") in got["chat"]
    assert got["chat_tokens"] > 0
    assert echo("good night") in got["stream"]
    assert got["stream_pieces"] > 1
    assert got["tool"] == "weather"
    assert got["embeddings"] == [1536, 1536]


@pytest.mark.promise("N52")
def test_langchain_chats_streams_calls_tools_and_embeds(gateway: Deployment) -> None:
    script = str(SCRIPTS / "frameworks" / "langchain_calls.py")
    got = run(gateway, str(PYTHON), script, OPENAI_MODEL)
    assert_all_four(got)
    assert got["stream_tokens"] > 0
    assert got["after_tool"]
    assert got["structured"]
    assert got["async_text"] == "", "a job that is queued has no text yet"


@pytest.mark.promise("N52")
def test_llamaindex_chats_streams_calls_tools_and_embeds(gateway: Deployment) -> None:
    script = str(SCRIPTS / "frameworks" / "llamaindex_calls.py")
    assert_all_four(run(gateway, str(PYTHON), script, OPENAI_MODEL))


@pytest.mark.promise("N51", "M7")
@needs_node
@pytest.mark.parametrize("model", [OPENAI_MODEL, ANTHROPIC_MODEL])
def test_the_sdk_for_node_does_all_that_the_one_for_python_does(
    gateway: Deployment, model: str
) -> None:
    assert NODE is not None
    got = run(gateway, NODE, str(SCRIPTS / "node" / "openai_calls.mjs"), model)
    assert_all_four(got)
    assert got["stream_tokens"] > 0
    assert got["lane"] == "standard"
    assert (got["streamed_tool"], got["streamed_arguments"]) == ("weather", "object")
    assert got["structured"] == "number"
    assert got["errors"] == {
        "bad": ["BadRequestError", 400, "bad_request"],
        "unknown": ["NotFoundError", 404, "not_found"],
        "stranger": ["AuthenticationError", 401, "unauthorized"],
    }
    assert got["async_text"] is None
    assert got["async_kept"] == got["async_id"]


@pytest.mark.promise("N52")
@needs_node
@pytest.mark.parametrize("model", [OPENAI_MODEL, ANTHROPIC_MODEL])
def test_the_vercel_ai_sdk_chats_streams_calls_tools_and_embeds(
    gateway: Deployment, model: str
) -> None:
    assert NODE is not None
    got = run(gateway, NODE, str(SCRIPTS / "node" / "ai_sdk_calls.mjs"), model)
    assert_all_four(got)
    assert got["stream_tokens"] > 0
    assert got["structured"] == "number"
