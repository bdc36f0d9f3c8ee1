"""Where a request comes from."""

from flask import Request


def client_address(request: Request, *, trust_proxy: bool) -> str | None:
    """The caller's address; None where the server does not know it.

    Behind a proxy that is trusted it is what that proxy added to `X-Forwarded-For`, at its end:
    everything before it is only what the caller says.
    """
    forwarded = request.headers.getlist("X-Forwarded-For") if trust_proxy else []
    last_hop = ",".join(forwarded).rpartition(",")[2].strip()
    return last_hop or request.remote_addr
