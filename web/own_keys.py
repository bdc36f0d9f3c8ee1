"""Customers' own provider keys, as their calls need them."""

from collections.abc import Collection, Mapping
from uuid import UUID

from gateway.access import credentials
from gateway.house import House
from gateway.providers.dialect import Credential
from web.auth import caller, widget_key
from web.fresh import Fresh
from web.threads import Readers


class OwnKeys:
    """Looks accounts' keys up, each account at most once in a moment; none is opened here."""

    def __init__(self, house: House, readers: Readers) -> None:
        self._house = house
        self._readers = readers
        self._by_account = Fresh(self._look_up)

    def of_caller(self) -> Mapping[str, Credential]:
        """Those for the request that is being answered, by provider. Raises DatabaseAway.

        None for a visitor of a page: what their calls cost at the provider counts towards no cap.
        """
        if widget_key() is not None:
            return {}
        return self._by_account.get(caller().account_id) or {}

    def forget(self, account_id: UUID) -> None:
        """The account has changed its keys, through this process."""
        self._by_account.forget(account_id)

    def _look_up(self, account_ids: Collection[UUID]) -> Mapping[UUID, Mapping[str, Credential]]:
        found = self._readers.run(credentials.current_of, account_ids)
        return {
            account_id: {key.provider: self._house.credential_of(key) for key in current}
            for account_id, current in found.items()
        }
