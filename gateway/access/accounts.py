"""Accounts: making them and crediting them."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from gateway.access.vault import Vault
from models import ids
from models.accounts import Account
from models.ledger import Balance


def create(session: Session, vault: Vault, name: str, webhook_secret: str) -> UUID:
    """A new account with an empty balance; its webhook secret is stored sealed."""
    account_id = ids.new()
    session.add(
        Account(id=account_id, name=name, webhook_secret=vault.seal(account_id, webhook_secret))
    )
    session.flush()
    session.add(Balance(account_id=account_id))
    session.flush()
    return account_id


def exists(session: Session, account_id: UUID) -> bool:
    """Whether there is such an account."""
    return session.get(Account, account_id) is not None


def webhook_secret(session: Session, vault: Vault, account_id: UUID) -> str:
    """The secret that this account's own webhooks are signed with."""
    sealed = session.scalars(select(Account.webhook_secret).where(Account.id == account_id)).one()
    return vault.open(account_id, sealed)
