"""The override file: what the price data set doesn't know about the models we serve.

Its format is described in `overrides.toml`. A misspelt key or a value of the wrong kind refuses
to load (pydantic's ValidationError, a ValueError).
"""

import hashlib
import tomllib
from collections.abc import Iterable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

Kind = Literal["chat", "embedding"]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ProviderTable(_Table):
    """How one provider of the data set is read: under which name, and which of its models.

    `base_url` is for a service that speaks like OpenAI and that no setting knows the address of.
    """

    source: str
    base_url: str | None = Field(default=None, pattern="^https?://")
    maker: str | None = None
    only: tuple[str, ...] = ()
    hide: tuple[str, ...] = ()


class FactsTable(_Table):
    """Facts about the models whose ids match; None leaves what an earlier table said."""

    models: tuple[str, ...]
    kind: Kind | None = None
    context_length: int | None = Field(default=None, gt=0)
    max_output_tokens: int | None = Field(default=None, gt=0)
    features: tuple[str, ...] | None = None
    batch_factor: Decimal | None = Field(default=None, gt=0, le=1)


class Facts(NamedTuple):
    """What all the matching tables together say about one model."""

    kind: Kind = "chat"
    context_length: int | None = None
    max_output_tokens: int | None = None
    features: tuple[str, ...] = ()
    batch_factor: Decimal | None = None


class Overrides(_Table):
    """The whole file. Model ids are `maker/model`, in lower case."""

    default_release: date
    hide: tuple[str, ...] = ()
    providers: dict[str, ProviderTable]
    same_as: dict[str, dict[str, str]] = {}
    facts: tuple[FactsTable, ...] = ()
    names: dict[str, str] = {}
    released: dict[str, date] = {}
    aliases: dict[str, str] = {}

    def serves(self, provider: str, name: str) -> bool:
        """Whether the provider's model of that name belongs in the catalogue at all."""
        only = self.providers[provider].only
        return not self.hides(provider, name) and (not only or name in only)

    def hides(self, provider: str, name: str) -> bool:
        """Whether a pattern excludes that name, the list of `only` aside."""
        return _matches(name, self.hide) or _matches(name, self.providers[provider].hide)

    def model_id(self, provider: str, name: str) -> str:
        """The id of a provider's model; ValueError if nothing says who made it."""
        for model_id, members in self.same_as.items():
            if members.get(provider) == name:
                return model_id
        maker, slash, bare = name.lower().rpartition("/")
        if not slash:
            maker, bare = self.providers[provider].maker or "", name.lower()
        if not maker:
            raise ValueError(f"no maker is known for {name} at {provider}: name it in same_as")
        return f"{maker}/{bare}"

    def facts_of(self, model_id: str) -> Facts:
        """All that the file says about a model; of two tables the later one wins."""
        facts = Facts()
        for table in self.facts:
            if _matches(model_id, table.models):
                said = table.model_dump(exclude={"models"}, exclude_none=True)
                facts = facts._replace(**said)
        return facts

    def created(self, model_id: str) -> int:
        """The release date as a Unix time: midnight UTC, like the providers' own lists."""
        released = self.released.get(model_id, self.default_release)
        return int(datetime.combine(released, time(), UTC).timestamp())


def read(path: Path) -> tuple[Overrides, str]:
    """The file's content, and 12 hex digits that name it; ValueError if it isn't valid."""
    content = path.read_bytes()
    overrides = Overrides.model_validate(tomllib.loads(content.decode()))
    return overrides, hashlib.sha256(content).hexdigest()[:12]


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name.lower(), pattern) for pattern in patterns)
