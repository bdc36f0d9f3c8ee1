"""What a key may be used for."""

from enum import StrEnum


class Scope(StrEnum):
    """One kind of thing that a key may do. None of them includes another."""

    INFERENCE = "inference"
    JOBS_READ = "jobs:read"
    BILLING_READ = "billing:read"
    ADMIN = "admin"


ALL_SCOPES = frozenset(Scope)
"""Those of a key that an operator makes, unless told otherwise: it is the account owner's."""
DEFAULT_SCOPES = ALL_SCOPES - {Scope.ADMIN}
"""Those of a key that a customer makes without naming any."""
