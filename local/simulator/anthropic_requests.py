"""Checks of Anthropic's Messages bodies, refusing as Anthropic does, by ApiError."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from local.simulator import models
from local.simulator.errors import ApiError, invalid

VERSION_2023: Final = "2023-06-01"
VERSION_2026: Final = "2026-10-21"
VERSIONS: Final = (VERSION_2023, VERSION_2026)

_SAMPLING: Final = {"temperature": 1.0, "top_p": 1.0, "top_k": float("inf")}
_FIELD_NAMES: Final = (
    "model max_tokens messages system cache_control stop_sequences stream tools tool_choice "
    "thinking output_config metadata service_tier speed inference_geo container diagnostics "
    "context_management mcp_servers"
)
_FIELDS: Final = frozenset(_FIELD_NAMES.split()) | frozenset(_SAMPLING)
_ROLES: Final = ("user", "assistant", "system")
_BLOCK_NAMES: Final = (
    "text image document tool_use tool_result thinking redacted_thinking search_result "
    "server_tool_use web_search_tool_result container_upload"
)
_BLOCKS: Final = frozenset(_BLOCK_NAMES.split())
_TOOL_CHOICES: Final = ("auto", "any", "tool", "none")
_MAX_BREAKPOINTS: Final = 4


def check_version(version: str | None) -> str:
    """The API version, which must be named."""
    if version is None:
        raise invalid("anthropic-version: header is required")
    if version not in VERSIONS:
        raise invalid(f'anthropic-version: "{version}" is not a valid version')
    return version


def check_message(
    body: object, version: str, *, strict: bool
) -> tuple[dict[str, Any], models.Model]:
    """The body of a message, checked, and its model."""
    fields, model = check_prompt(body, version, strict=strict)
    max_tokens = fields.get("max_tokens")
    if max_tokens is None:
        raise invalid("max_tokens: Field required")
    if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 0:
        raise invalid("max_tokens: Input should be a valid integer of at least 0")
    if max_tokens > model.max_output_tokens:
        raise invalid(
            f"max_tokens: {max_tokens} > {model.max_output_tokens}, which is the maximum allowed "
            f"number of output tokens for {fields['model']}"
        )
    return fields, model


def check_prompt(
    body: object, version: str, *, strict: bool
) -> tuple[dict[str, Any], models.Model]:
    """What a message and a count of its tokens have in common."""
    if not isinstance(body, dict):
        raise invalid("Input should be a valid dictionary")
    if strict:
        for name in body:
            if name not in _FIELDS:
                raise invalid(f"{name}: Extra inputs are not permitted")
    if not isinstance(body.get("model"), str):
        raise invalid("model: Field required")
    if not isinstance(body.get("messages"), list):
        raise invalid("messages: Field required")
    if not body["messages"]:
        raise invalid("messages: at least one message is required")
    for index, message in enumerate(body["messages"]):
        _message(message, f"messages.{index}", version)
    if body.get("system") is not None:
        _content(body["system"], "system", ("text",))
    _sampling(body, version)
    _tools(body)
    _thinking(body)
    _output_format(body)
    if sum(1 for _ in breakpoints(body)) > _MAX_BREAKPOINTS:
        raise invalid("A maximum of 4 blocks with cache_control may be provided.")
    model = models.find(body["model"], models.ANTHROPIC)
    if model is None:
        raise ApiError(404, f"model: {body['model']}")
    return body, model


def _message(message: Any, where: str, version: str) -> None:
    if not isinstance(message, dict):
        raise invalid(f"{where}: Input should be a valid dictionary")
    role = message.get("role")
    if role not in _ROLES:
        raise invalid(f"{where}.role: Input should be 'user', 'assistant' or 'system'")
    content: Any = message.get("content")
    _content(content, f"{where}.content", _BLOCKS)
    if version != VERSION_2026 or isinstance(content, str):
        return
    for index, block in enumerate(content):
        if role == "assistant" and block["type"] == "document":
            raise invalid(f"{where}.content.{index}: document blocks are for user messages")
        if role == "user" and block["type"] == "text" and block.get("citations"):
            raise invalid(f"{where}.content.{index}.citations: must be empty in user messages")


def _content(content: Any, where: str, kinds: frozenset[str] | tuple[str, ...]) -> None:
    if isinstance(content, str):
        if not content and where != "system":
            raise invalid(f"{where}: text content must be non-empty")
        return
    if not isinstance(content, list) or not content:
        raise invalid(f"{where}: Input should be a valid string or a non-empty list")
    for index, block in enumerate(content):
        kind = block.get("type") if isinstance(block, dict) else None
        if kind not in kinds:
            raise invalid(f"{where}.{index}.type: Input tag '{kind}' is not expected here")
        if kind == "text" and not (isinstance(block.get("text"), str) and block["text"]):
            raise invalid(f"{where}.{index}.text: text content blocks must be non-empty")
        if kind == "tool_use" and not isinstance(block.get("input"), dict):
            raise invalid(f"{where}.{index}.input: Input should be a valid dictionary")
        if kind == "tool_result" and not isinstance(block.get("tool_use_id"), str):
            raise invalid(f"{where}.{index}.tool_use_id: Field required")


def _sampling(body: Mapping[str, Any], version: str) -> None:
    for name, highest in _SAMPLING.items():
        value = body.get(name)
        if value is None:
            continue
        if version == VERSION_2026:
            raise invalid(f"{name}: not supported with anthropic-version {VERSION_2026}")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= value <= highest:
            raise invalid(f"{name}: Input should be a number from 0 to {highest}")


def _tools(body: Mapping[str, Any]) -> None:
    tools, choice = body.get("tools"), body.get("tool_choice")
    if tools is not None:
        if not isinstance(tools, list):
            raise invalid("tools: Input should be a valid list")
        for index, tool in enumerate(tools):
            if not isinstance(tool, dict) or not isinstance(tool.get("name"), str):
                raise invalid(f"tools.{index}.name: Field required")
            custom = tool.get("type") in (None, "custom")
            if custom and not isinstance(tool.get("input_schema"), dict):
                raise invalid(f"tools.{index}.custom.input_schema: Field required")
    if choice is None:
        return
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind not in _TOOL_CHOICES:
        raise invalid("tool_choice.type: Input should be 'auto', 'any', 'tool' or 'none'")
    if not tools:
        raise invalid("tool_choice: may only be specified while providing tools")
    if kind == "tool" and choice.get("name") not in [tool["name"] for tool in tools]:
        raise invalid(f"Tool '{choice.get('name')}' not found in provided tools")


def _thinking(body: Mapping[str, Any]) -> None:
    thinking = body.get("thinking")
    if thinking is None:
        return
    kind = thinking.get("type") if isinstance(thinking, dict) else None
    if kind not in ("adaptive", "enabled", "disabled", "between_tools"):
        raise invalid("thinking.type: unexpected value")
    if kind == "enabled":
        budget = thinking.get("budget_tokens")
        if not isinstance(budget, int) or budget < 1024:
            raise invalid("thinking.enabled.budget_tokens: must be at least 1024")
        if isinstance(body.get("max_tokens"), int) and budget >= body["max_tokens"]:
            raise invalid("max_tokens: must be greater than thinking.budget_tokens")


def _output_format(body: Mapping[str, Any]) -> None:
    config = body.get("output_config")
    if config is None:
        return
    if not isinstance(config, dict):
        raise invalid("output_config: Input should be a valid dictionary")
    wanted = config.get("format")
    if wanted is None:
        return
    if not isinstance(wanted, dict) or wanted.get("type") != "json_schema":
        raise invalid("output_config.format.type: Input should be 'json_schema'")
    if not isinstance(wanted.get("schema"), dict):
        raise invalid("output_config.format.schema: Field required")


def breakpoints(body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Every cache_control of a request, wherever it may stand."""
    places: list[Any] = [body, *(body.get("tools") or ())]
    if isinstance(body.get("system"), list):
        places += body["system"]
    for message in body["messages"]:
        if isinstance(message["content"], list):
            places += message["content"]
    for place in places:
        if isinstance(place, dict) and isinstance(place.get("cache_control"), dict):
            yield place["cache_control"]
