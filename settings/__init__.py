"""The environment, read once into one frozen object; a bad value refuses to boot."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveInt,
    SecretStr,
    ValidationError,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from settings.origins import check_origin

PROVIDER_BASE_URLS: Mapping[str, str] = {
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com",
    "gemini": "https://generativelanguage.googleapis.com/v1beta",
    "mistral": "https://api.mistral.ai/v1",
    "groq": "https://api.groq.com/openai/v1",
    "together": "https://api.together.xyz/v1",
    "xai": "https://api.x.ai/v1",
    "deepseek": "https://api.deepseek.com/v1",
}
KEY_MIN_CHARACTERS = 32
DEFAULT_PORT = 8000

_POSTGRES_SCHEMES = ("postgres", "postgresql", "postgresql+psycopg")
_REDIS_SCHEMES = ("redis", "rediss")


class SettingsError(Exception):
    """The environment cannot be used; the message names each bad variable and no secret."""


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """How to reach one provider with the house's own key; `api_key` is None if there is none.

    `spare_keys` are for synchronous calls that the first key cannot make.
    """

    api_key: SecretStr | None
    base_url: str
    spare_keys: tuple[SecretStr, ...] = ()


def _check_http_url(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    return value.rstrip("/")


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _split(value: Any) -> Any:
    return [each.strip() for each in value.split(",")] if isinstance(value, str) else value


def _split_pairs(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    pairs = [each.strip() for each in value.split(",") if each.strip()]
    if not all("=" in each for each in pairs):
        raise ValueError("must be pairs like name=key, with commas between them")
    return {name.strip(): key.strip() for name, _, key in (each.partition("=") for each in pairs)}


HttpUrl = Annotated[str, AfterValidator(_check_http_url)]
Origins = Annotated[
    tuple[Annotated[str, AfterValidator(check_origin)], ...], NoDecode, BeforeValidator(_split)
]
ApiKeys = Annotated[dict[str, SecretStr], NoDecode, BeforeValidator(_split_pairs)]
LogLevel = Annotated[
    Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_upper)
]
CertReqs = Annotated[Literal["none", "required"], BeforeValidator(_lower)]


class Settings(BaseSettings):
    """Every variable of the environment that the service reads, by its name in lower case.

    Nothing is read from the environment here: `load` does that, once a process.
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", hide_input_in_errors=True, env_ignore_empty=True
    )

    database_url: SecretStr
    redis_url: SecretStr
    redis_ssl_cert_reqs: CertReqs = "required"

    port: Annotated[int, Field(ge=1, le=65535)] = DEFAULT_PORT
    web_concurrency: PositiveInt = 2
    public_url: HttpUrl = Field(
        default_factory=lambda valid: f"http://127.0.0.1:{valid.get('port', DEFAULT_PORT)}"
    )

    secret_key: SecretStr
    encryption_key: SecretStr
    encryption_key_previous: SecretStr | None = None
    metrics_token: SecretStr | None = None

    openai_api_key: SecretStr | None = None
    openai_base_url: HttpUrl = PROVIDER_BASE_URLS["openai"]
    openai_admin_key: SecretStr | None = None
    openai_project_id: str | None = None
    anthropic_api_key: SecretStr | None = None
    anthropic_base_url: HttpUrl = PROVIDER_BASE_URLS["anthropic"]
    anthropic_admin_key: SecretStr | None = None
    anthropic_workspace_id: str | None = None
    gemini_api_key: SecretStr | None = None
    gemini_base_url: HttpUrl = PROVIDER_BASE_URLS["gemini"]
    mistral_api_key: SecretStr | None = None
    mistral_base_url: HttpUrl = PROVIDER_BASE_URLS["mistral"]
    groq_api_key: SecretStr | None = None
    groq_base_url: HttpUrl = PROVIDER_BASE_URLS["groq"]
    together_api_key: SecretStr | None = None
    together_base_url: HttpUrl = PROVIDER_BASE_URLS["together"]
    xai_api_key: SecretStr | None = None
    xai_base_url: HttpUrl = PROVIDER_BASE_URLS["xai"]
    deepseek_api_key: SecretStr | None = None
    deepseek_base_url: HttpUrl = PROVIDER_BASE_URLS["deepseek"]
    further_api_keys: ApiKeys = {}

    batch_window_seconds: PositiveInt = 300
    batch_ripe_requests: PositiveInt = 1000
    batch_max_requests: PositiveInt | None = None
    batch_poll_seconds: PositiveInt = 30
    batch_doubt_seconds: PositiveInt = 120
    sweep_seconds: PositiveInt = 10
    retention_days: PositiveInt = 30
    price_markup_percent: Annotated[Decimal, Field(ge=0, allow_inf_nan=False)] = Decimal(0)
    reconcile_tolerance_usd: Annotated[Decimal, Field(ge=0, le=1_000_000, decimal_places=9)] = (
        Decimal("0.01")
    )
    simulator_meter_url: HttpUrl | None = None
    byok_fee_percent: Annotated[Decimal, Field(ge=0, lt=100, decimal_places=2)] = Decimal(0)
    webhook_allow_private: bool = False
    cors_allowed_origins: Origins = ()
    trust_proxy: bool = False
    log_level: LogLevel = "INFO"

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, value: SecretStr) -> SecretStr:
        return _check_scheme(value, _POSTGRES_SCHEMES)

    @field_validator("redis_url")
    @classmethod
    def _check_redis_url(cls, value: SecretStr) -> SecretStr:
        return _check_scheme(value, _REDIS_SCHEMES)

    @field_validator("secret_key", "encryption_key", "encryption_key_previous")
    @classmethod
    def _check_key_length(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < KEY_MIN_CHARACTERS:
            raise ValueError(f"must have {KEY_MIN_CHARACTERS} characters or more")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 (the library's signature)
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is handed in: see `load`."""
        return (init_settings,)

    @property
    def postgres_url(self) -> str:
        """The database as libpq and psycopg write it: `postgresql://…`."""
        return "postgresql://" + _after_scheme(self.database_url)

    @property
    def sqlalchemy_url(self) -> str:
        """The database as SQLAlchemy writes it: `postgresql+psycopg://…`."""
        return "postgresql+psycopg://" + _after_scheme(self.database_url)

    @property
    def redis_options(self) -> dict[str, str]:
        """Keyword arguments to pass beside REDIS_URL to redis-py's `from_url`."""
        if self.redis_url.get_secret_value().startswith("rediss://"):
            return {"ssl_cert_reqs": self.redis_ssl_cert_reqs}
        return {}

    @property
    def providers(self) -> dict[str, ProviderSettings]:
        """Every provider by its name, with or without a key."""
        return {
            name: _provider(getattr(self, f"{name}_api_key"), getattr(self, f"{name}_base_url"))
            for name in PROVIDER_BASE_URLS
        }


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Parse the process's environment, or the one given; an empty value counts as unset.

    Raises SettingsError with one sentence a bad variable.
    """
    source = EnvSettingsSource(Settings)
    if environ is not None:
        source.env_vars = {name.lower(): value for name, value in environ.items()}
    values = {name: value for name, value in source().items() if value.strip()}
    try:
        return Settings(**values)
    except ValidationError as error:
        # A default that depends on a bad value is no fault of its own.
        faults = [f for f in error.errors() if f["type"] != "default_factory_not_called"]
        sentences = [_sentence(fault["loc"], fault["type"], fault["msg"]) for fault in faults]
    # Raised outside the handler: a chained ValidationError would carry the values it refused.
    raise SettingsError(" ".join(sentences))


def _provider(api_keys: SecretStr | None, base_url: str) -> ProviderSettings:
    """`api_keys` may be several, with commas between them."""
    texts = "" if api_keys is None else api_keys.get_secret_value()
    keys = [SecretStr(each.strip()) for each in texts.split(",") if each.strip()]
    return ProviderSettings(keys[0] if keys else None, base_url, tuple(keys[1:]))


def _check_scheme(url: SecretStr, schemes: tuple[str, ...]) -> SecretStr:
    scheme, separator, rest = url.get_secret_value().partition("://")
    if scheme not in schemes or not separator or not rest:
        raise ValueError("must begin with " + " or ".join(f"{name}://" for name in schemes[:2]))
    return url


def _after_scheme(url: SecretStr) -> str:
    return url.get_secret_value().partition("://")[2]


_EXPLANATIONS: Mapping[str, Callable[[str], str]] = {
    "missing": lambda _: "is required and not set",
    "value_error": lambda message: message.removeprefix("Value error, "),
}


def _sentence(location: tuple[int | str, ...], kind: str, message: str) -> str:
    """One fault as a sentence. pydantic's own messages hold no input, our own none either."""
    name = str(location[0]).upper() if location else "The environment"
    explain = _EXPLANATIONS.get(kind)
    because = explain(message) if explain else f"is not usable: {message[:1].lower()}{message[1:]}"
    return f"{name} {because}."
