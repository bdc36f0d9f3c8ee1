"""Taking our account's keys and ids out of what a provider says, before a caller sees it."""

import re

_LONGEST_MESSAGE = 1_000

# OpenAI's 401 quotes the ends of the key with asterisks between; its 429 names the organization.
_KEYS = re.compile(r"\b(?:sk|pk|rk|gsk|xai|sess)[-_][A-Za-z0-9_*.-]{3,}")
_MASKED = re.compile(r"(?<![A-Za-z0-9_-])[A-Za-z0-9_-]*\*{3,}[A-Za-z0-9_-]*")
_IDS = re.compile(
    r"\b(?:(?:org|user|file)-[A-Za-z0-9]{6,}"
    r"|(?:proj|req|acct|wrkspc|msgbatch|resp)_[A-Za-z0-9]{4,}"
    r"|batch_(?=[A-Za-z]*\d)[A-Za-z0-9]{4,}"
    r"|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\b"
)


def scrub(message: str, api_key: str = "") -> str:
    """`message` without keys, masked keys, and ids of organizations, projects, files, requests."""
    if api_key:
        message = message.replace(api_key, "[key]")
    message = _KEYS.sub("[key]", message)
    message = _MASKED.sub("[key]", message)
    return _IDS.sub("[id]", message)[:_LONGEST_MESSAGE]
