"""How the services that speak like OpenAI stray from it: one table, and what it needs. Pure.

To add one: a name here, its base URL in the settings, its prices in the catalogue.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gateway.providers.dialect import Endpoint
from gateway.providers.fields import JsonObject, count, items, mapping


def as_it_is(body: JsonObject) -> JsonObject:
    """A service that answers in OpenAI's shape."""
    return body


def with_reasoning_inside(body: JsonObject) -> JsonObject:
    """Puts reasoning into `completion_tokens`, which xAI and Gemini count beside it.

    Gemini tells it by the total alone, xAI in the details too; both bill it as output.
    """
    usage = mapping(body.get("usage"))
    counts = [count(usage.get(f"{part}_tokens")) for part in ("prompt", "completion", "total")]
    if None in counts:
        return body
    prompt, completion, total = (each or 0 for each in counts)
    reasoning = total - prompt - completion
    if reasoning <= 0:
        return body
    details = {**mapping(usage.get("completion_tokens_details")), "reasoning_tokens": reasoning}
    inside = {"completion_tokens": total - prompt, "completion_tokens_details": details}
    return {**body, "usage": {**usage, **inside}}


def with_text_content(body: JsonObject) -> JsonObject:
    """Makes text of a content that is a list, and `reasoning_content` of the thinking in it.

    Mistral's models answer so when they reason, in messages and in deltas.
    """
    choices = [mapping(choice) for choice in items(body.get("choices"))]
    if not any(isinstance(_said(choice).get("content"), list) for choice in choices):
        return body
    return {**body, "choices": [_flattened(choice) for choice in choices]}


def _said(choice: JsonObject) -> JsonObject:
    return mapping(choice.get("message")) or mapping(choice.get("delta"))


def _flattened(choice: JsonObject) -> JsonObject:
    said = _said(choice)
    parts = said.get("content")
    if not isinstance(parts, list):
        return choice
    thoughts = [mapping(part) for part in parts if mapping(part).get("type") == "thinking"]
    flat = {**said, "content": _text(parts)}
    if thoughts:
        flat["reasoning_content"] = "".join(_text(items(one.get("thinking"))) for one in thoughts)
    return {**choice, "message" if "message" in choice else "delta": flat}


def _text(parts: list[object]) -> str:
    texts = [mapping(part).get("text") for part in parts if mapping(part).get("type") == "text"]
    return "".join(text for text in texts if isinstance(text, str))


@dataclass(frozen=True, slots=True)
class Accent:
    """One service's ways.

    `path` follows the base URL. `batched` are the endpoints of its batches that we speak.
    `renamed` are parameters that it knows by another name only, `dropped` hints that it refuses,
    `untold` fields of messages that it refuses, `unpriced` what it bills by a price that we do not
    have. `tidy` puts an answer or a chunk into OpenAI's shape; `tidied_if` are bytes without which
    a chunk needs no such thing.
    """

    path: str = ""
    batched: frozenset[Endpoint] = frozenset()
    renamed: Mapping[str, str] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()
    untold: frozenset[str] = frozenset()
    unpriced: tuple[str, ...] = ()
    tidy: Callable[[JsonObject], JsonObject] = as_it_is
    tidied_if: tuple[bytes, ...] = ()

    def prepare(self, body: JsonObject) -> JsonObject:
        """A request's body in the service's own words."""
        if not (self.renamed or self.dropped):
            return body
        prepared = {name: value for name, value in body.items() if name not in self.dropped}
        for name, known in self.renamed.items():
            # The newer name wins, as it does at OpenAI.
            value = prepared.pop(name, None)
            if value is not None:
                prepared[known] = value
        if self.untold and isinstance(body.get("messages"), list):
            prepared["messages"] = [self._message(message) for message in body["messages"]]
        return prepared

    def _message(self, message: object) -> object:
        if not isinstance(message, dict):
            return message
        return {name: value for name, value in message.items() if name not in self.untold}


# DeepSeek ignores the newer name in silence, the others refuse it or do not document it.
_ONLY_MAX_TOKENS = {"max_completion_tokens": "max_tokens"}

ACCENTS: Mapping[str, Accent] = {
    "openai": Accent(batched=frozenset(Endpoint)),
    # Its layer for OpenAI's clients lies beside its own API.
    "gemini": Accent(path="/openai", tidy=with_reasoning_inside),
    # Refuses every field that it does not know; streams end with the usage unasked.
    "mistral": Accent(
        renamed={**_ONLY_MAX_TOKENS, "seed": "random_seed"},
        dropped=frozenset(
            {
                "prompt_cache_key",
                "prompt_cache_options",
                "prompt_cache_retention",
                "safety_identifier",
                "store",
                "stream_options",
                "user",
            }
        ),
        untold=frozenset({"reasoning_content"}),
        tidy=with_text_content,
        tidied_if=(b'"content":[', b'"content": ['),
    ),
    "groq": Accent(unpriced=("search_settings", "compound_custom")),
    "together": Accent(renamed=_ONLY_MAX_TOKENS),
    "xai": Accent(unpriced=("search_parameters",), tidy=with_reasoning_inside),
    "deepseek": Accent(renamed=_ONLY_MAX_TOKENS),
}
