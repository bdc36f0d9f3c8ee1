"""What the lanes call with: found by its lane's reference, each time it is needed.

A customer's own key may be gone, or not be accepted. Its jobs then fail with 403, and nobody
else's: it has lanes, batches and a circuit of its own.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Engine, text

from gateway.access import credentials
from gateway.access.credentials import OwnKey
from gateway.access.vault import SealBroken
from gateway.lanes import endings
from gateway.providers.dialect import HOUSE, Credential, ProviderError, Unauthorized
from models.session import transaction

log = logging.getLogger(__name__)

REFUSALS_AT_MOST = 3
"""After so many refusals in a row what lies at the provider is given up: it has been paid for."""
AT_ONCE = 500


class KeyGone(Unauthorized):
    """The customer has removed the key."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """The house's credentials, by provider and name, and the way to the customers' own.

    `of_key` makes a credential of a sealed key.
    """

    engine: Engine
    house: Mapping[tuple[str, str], Credential]
    of_key: Callable[[OwnKey], Credential]

    def find(self, provider: str, name: str) -> Credential | None:
        """The credential of a lane; None while there is none that can be used. Raises KeyGone."""
        if name == HOUSE:
            return self.house.get((provider, name))
        with transaction(self.engine) as session:
            key = credentials.find(session, provider, name)
        if key is None:
            raise KeyGone(f"Your own key for {provider} has been removed.")
        credential = self.of_key(key)
        try:
            return credential if credential.api_key else None
        except SealBroken:
            # The operator's to mend; the work waits for it.
            log.error("own_key.not_opened", extra={"provider": provider, "alert": True})
            return None


def refuses_own_key(name: str, error: ProviderError) -> bool:
    """Whether an error is about the customer's own key, `name` being its lane's credential."""
    return name != HOUSE and isinstance(error, Unauthorized)


def refusal(provider: str, error: ProviderError) -> str:
    """What the customer is told of it."""
    if isinstance(error, KeyGone):
        return error.message
    return f"{provider} did not accept your own key: {error.message}"


def is_final(error: ProviderError, refusals: int) -> bool:
    """Whether what lies at the provider is given up, after so many refusals in a row before."""
    return isinstance(error, KeyGone) or refusals + 1 >= REFUSALS_AT_MOST


_WAITING_WITHOUT_KEY = text(
    f"""
    SELECT jobs.id, lanes.provider FROM lanes JOIN jobs ON jobs.lane_id = lanes.id
    WHERE lanes.credential <> '{HOUSE}'
      AND NOT EXISTS (
        SELECT FROM provider_keys AS key
        WHERE key.provider = lanes.provider AND key.reference = lanes.credential
          AND key.sealed IS NOT NULL)
      AND jobs.batch_id IS NULL AND jobs.completed_at IS NULL AND jobs.status = 'queued'
    LIMIT {AT_ONCE} FOR UPDATE OF jobs SKIP LOCKED
    """
)


def fail_waiting(engine: Engine) -> int:
    """Fails the jobs that wait in lanes whose key is gone, a set at a time; how many those were."""
    total = 0
    while True:
        with transaction(engine) as session:
            waiting = session.execute(_WAITING_WITHOUT_KEY).all()
            endings.finish(session, [_forbidden(row.id, row.provider) for row in waiting])
        if not waiting:
            return total
        endings.announce(engine)
        total += len(waiting)


def _forbidden(job_id: UUID, provider: str) -> endings.Ending:
    return endings.forbidden(job_id, f"Your own key for {provider} has been removed.")
