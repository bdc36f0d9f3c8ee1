import io
import json
import logging
import warnings
from collections.abc import Iterator
from decimal import Decimal

import pytest

import settings
from settings import SettingsError, logs

REQUIRED = {
    "DATABASE_URL": "postgres://user:database-password@db.example:5432/offpeak",
    "REDIS_URL": "redis://:redis-password@redis.example:6379/0",
    "SECRET_KEY": "s" * 32,
    "ENCRYPTION_KEY": "e" * 32,
}


def load(**changes: str) -> settings.Settings:
    return settings.load({**REQUIRED, **changes})


def test_the_defaults_are_those_of_the_contract() -> None:
    loaded = load()
    assert loaded.port == 8000
    assert loaded.web_concurrency == 2
    assert loaded.public_url == "http://127.0.0.1:8000"
    assert loaded.metrics_token is None
    assert loaded.batch_window_seconds == 300
    assert loaded.batch_ripe_requests == 1000
    assert loaded.batch_max_requests is None
    assert loaded.batch_poll_seconds == 30
    assert loaded.batch_doubt_seconds == 120
    assert loaded.sweep_seconds == 10
    assert loaded.retention_days == 30
    assert loaded.price_markup_percent == Decimal(0)
    assert loaded.webhook_allow_private is False
    assert loaded.log_level == "INFO"
    assert loaded.cors_allowed_origins == ()
    assert loaded.trust_proxy is False


def test_values_are_parsed_and_unknown_variables_are_ignored() -> None:
    loaded = load(
        PORT="9001",
        PRICE_MARKUP_PERCENT="12.5",
        WEBHOOK_ALLOW_PRIVATE="true",
        LOG_LEVEL="debug",
        BATCH_MAX_REQUESTS="500",
        SOMETHING_ELSE="42",
    )
    assert loaded.port == 9001
    assert loaded.public_url == "http://127.0.0.1:9001"
    assert loaded.price_markup_percent == Decimal("12.5")
    assert loaded.webhook_allow_private is True
    assert loaded.log_level == "DEBUG"
    assert loaded.batch_max_requests == 500


def test_a_public_url_loses_its_trailing_slash() -> None:
    assert load(PUBLIC_URL="https://gateway.example/").public_url == "https://gateway.example"


def test_origins_are_told_apart_by_commas() -> None:
    origins = load(CORS_ALLOWED_ORIGINS="https://a.example, HTTP://localhost:3000,https://*.b.io")
    assert origins.cors_allowed_origins == (
        "https://a.example",
        "http://localhost:3000",
        "https://*.b.io",
    )


@pytest.mark.parametrize("value", ["*", "https://a.example,*", "https://a.example/", ",", "null"])
def test_what_is_no_origin_refuses_to_boot_and_no_star_is_one(value: str) -> None:
    with pytest.raises(SettingsError, match="CORS_ALLOWED_ORIGINS must be an origin such as"):
        load(CORS_ALLOWED_ORIGINS=value)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_each_way_to_write_a_database_url_gives_the_two_normal_forms(scheme: str) -> None:
    loaded = load(DATABASE_URL=f"{scheme}://u:p@h/db?host=%2Frun%2Fpg")
    assert loaded.sqlalchemy_url == "postgresql+psycopg://u:p@h/db?host=%2Frun%2Fpg"
    assert loaded.postgres_url == "postgresql://u:p@h/db?host=%2Frun%2Fpg"


def test_the_certificate_rule_reaches_only_a_tls_redis() -> None:
    plain = load(REDIS_SSL_CERT_REQS="none")
    tls = load(REDIS_URL="rediss://h:6380", REDIS_SSL_CERT_REQS="none")
    assert plain.redis_options == {}
    assert tls.redis_options == {"ssl_cert_reqs": "none"}
    assert load(REDIS_URL="rediss://h:6380").redis_options == {"ssl_cert_reqs": "required"}


def test_each_provider_has_a_base_url_and_a_key_only_if_it_is_set() -> None:
    loaded = load(GROQ_API_KEY="gsk-1", OPENAI_API_KEY="", OPENAI_BASE_URL="http://127.0.0.1:9/v1/")
    assert set(loaded.providers) == set(settings.PROVIDER_BASE_URLS)
    assert loaded.providers["openai"].api_key is None
    assert loaded.providers["openai"].base_url == "http://127.0.0.1:9/v1"
    groq = loaded.providers["groq"]
    assert groq.api_key is not None
    assert groq.api_key.get_secret_value() == "gsk-1"
    assert groq.spare_keys == ()


def test_keys_of_further_providers_are_pairs_and_stay_hidden() -> None:
    keys = load(FURTHER_API_KEYS="cerebras=csk-1=, fireworks=fw-2,").further_api_keys
    told = {name: key.get_secret_value() for name, key in keys.items()}
    assert told == {"cerebras": "csk-1=", "fireworks": "fw-2"}
    assert load().further_api_keys == {}
    with pytest.raises(SettingsError, match="FURTHER_API_KEYS must be pairs") as caught:
        load(FURTHER_API_KEYS="sk-secret")
    assert "sk-secret" not in str(caught.value)


def test_a_provider_may_have_several_keys_the_first_of_which_is_the_one() -> None:
    groq = load(GROQ_API_KEY="gsk-1, gsk-2,,gsk-3,").providers["groq"]
    assert groq.api_key is not None
    told = [key.get_secret_value() for key in (groq.api_key, *groq.spare_keys)]
    assert told == ["gsk-1", "gsk-2", "gsk-3"]
    assert groq.base_url == "https://api.groq.com/openai/v1"


@pytest.mark.parametrize("name", sorted(REQUIRED))
def test_a_required_variable_that_is_absent_or_empty_is_named(name: str) -> None:
    for environ in ({k: v for k, v in REQUIRED.items() if k != name}, {**REQUIRED, name: " "}):
        with pytest.raises(SettingsError, match=f"^{name} is required and not set\\.$"):
            settings.load(environ)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "mysql://user:tell-nobody@h/db"),
        ("DATABASE_URL", "postgres://"),
        ("REDIS_URL", "http://:tell-nobody@h"),
        ("REDIS_SSL_CERT_REQS", "optional"),
        ("SECRET_KEY", "tell-nobody"),
        ("ENCRYPTION_KEY", "tell-nobody"),
        ("ENCRYPTION_KEY_PREVIOUS", "tell-nobody"),
        ("PORT", "0"),
        ("PORT", "http"),
        ("WEB_CONCURRENCY", "0"),
        ("PUBLIC_URL", "gateway.example"),
        ("OPENAI_BASE_URL", "api.example"),
        ("BATCH_WINDOW_SECONDS", "-1"),
        ("BATCH_MAX_REQUESTS", "0"),
        ("BATCH_POLL_SECONDS", "soon"),
        ("PRICE_MARKUP_PERCENT", "-0.1"),
        ("PRICE_MARKUP_PERCENT", "NaN"),
        ("BYOK_FEE_PERCENT", "-1"),
        ("BYOK_FEE_PERCENT", "100"),
        ("BYOK_FEE_PERCENT", "0.001"),
        ("RECONCILE_TOLERANCE_USD", "-1"),
        ("RECONCILE_TOLERANCE_USD", "0.0000000001"),
        ("SIMULATOR_METER_URL", "meter.example"),
        ("WEBHOOK_ALLOW_PRIVATE", "perhaps"),
        ("LOG_LEVEL", "CHATTY"),
    ],
)
def test_a_bad_value_is_refused_by_a_sentence_that_names_it_and_hides_it(
    name: str, value: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load(**{name: value})
    message = str(caught.value)
    assert message.startswith(f"{name} ")
    assert message.endswith(".")
    assert "tell-nobody" not in message
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_every_bad_variable_is_named_at_once() -> None:
    with pytest.raises(SettingsError, match=r"PORT .*\. SWEEP_SECONDS .*\."):
        load(PORT="x", SWEEP_SECONDS="x")


def test_no_secret_stands_in_the_repr() -> None:
    text = repr(load(OPENAI_API_KEY="sk-provider", METRICS_TOKEN="metrics-token"))
    for secret in ("database-password", "redis-password", "s" * 32, "e" * 32):
        assert secret not in text
    assert "sk-provider" not in text
    assert "metrics-token" not in text


@pytest.fixture
def log_lines() -> Iterator[io.StringIO]:
    """Lines logged through `configure`; the process's own logging is put back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    logs.configure("INFO", stream)
    yield stream
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)


def last(stream: io.StringIO) -> dict[str, object]:
    line: dict[str, object] = json.loads(stream.getvalue().splitlines()[-1])
    return line


def test_a_log_line_is_json_with_its_extra_fields_and_bound_ids(log_lines: io.StringIO) -> None:
    with logs.bind(request_id="req_1", job_id=None), logs.bind(batch_id="pbatch_1"):
        logging.getLogger("gateway.x").info("cut %d lines", 3, extra={"lines": 3})
    line = last(log_lines)
    assert str(line.pop("ts")).endswith("+00:00")
    assert line == {
        "level": "INFO",
        "logger": "gateway.x",
        "event": "cut 3 lines",
        "lines": 3,
        "request_id": "req_1",
        "batch_id": "pbatch_1",
    }


def test_ids_are_unbound_after_the_block_and_unknown_ids_are_refused(
    log_lines: io.StringIO,
) -> None:
    with logs.bind(request_id="req_1"):
        pass
    logging.getLogger("x").warning("after")
    assert "request_id" not in last(log_lines)
    with pytest.raises(TypeError, match="account"), logs.bind(account="a"):
        pass


def test_an_extra_field_cannot_replace_the_event(log_lines: io.StringIO) -> None:
    logging.getLogger("x").info("said", extra={"event": "faked"})
    assert last(log_lines)["event"] == "said"


def test_an_exception_keeps_type_and_frames_but_no_values_of_its_arguments(
    log_lines: io.StringIO,
) -> None:
    def fail(prompt: str) -> None:
        raise ValueError(f"cannot\nDETAIL: {prompt}")

    try:
        fail("a private prompt")
    except ValueError:
        logging.getLogger("x").exception("failed")
    line = last(log_lines)
    exception = line["exception"]
    assert isinstance(exception, dict)
    assert exception["type"] == "builtins.ValueError"
    assert exception["message"] == "cannot"
    assert [frame.rsplit(" ", 1)[1] for frame in exception["frames"]][-1] == "fail"
    assert "a private prompt" not in log_lines.getvalue()


def test_the_cause_of_an_exception_is_described_too(log_lines: io.StringIO) -> None:
    try:
        try:
            raise KeyError("inner")
        except KeyError as inner:
            raise RuntimeError("outer") from inner
    except RuntimeError:
        logging.getLogger("x").exception("failed")
    exception = last(log_lines)["exception"]
    assert isinstance(exception, dict)
    assert exception["cause"]["type"] == "builtins.KeyError"


def test_what_json_cannot_hold_is_still_one_line() -> None:
    # Formatted here, not logged: pytest would keep the text and fail to pass it on.
    record = logging.makeLogRecord({"msg": "bad \udc00 text", "extra": "fine"})
    line = json.loads(logs.JsonFormatter().format(record))
    assert "udc00" in line["event"]
    assert "fine" in line["extra"]


def test_library_loggers_and_warnings_go_the_same_way(log_lines: io.StringIO) -> None:
    own = logging.StreamHandler(io.StringIO())
    logging.getLogger("gunicorn.error").addHandler(own)
    logs.configure("INFO", log_lines)
    for name in ("gunicorn.error", "dramatiq.worker", "apscheduler.executors"):
        logging.getLogger(name).warning("from %s", name)
        assert last(log_lines)["logger"] == name
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old way", stacklevel=1)
    assert last(log_lines)["logger"] == "py.warnings"
    assert own not in logging.getLogger("gunicorn.error").handlers
