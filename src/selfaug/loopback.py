"""Which addresses are this machine's own."""

from __future__ import annotations

import ipaddress
import re

__all__ = ["is_loopback", "names_this_machine"]

# A name or an address, and perhaps a port: browsers leave out port 80.
_HOST = re.compile(r"(localhost|[0-9.]+|\[[0-9a-f:.]+\])(:[0-9]*)?", re.IGNORECASE)


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own, which no other reaches."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def names_this_machine(host: str) -> bool:
    """Whether the `Host` of a request is one that no other machine can be reached by.

    A page elsewhere can have its own name point here, and then a browser sends what the page wants: with that name.
    """
    found = _HOST.fullmatch(host)
    return found is not None and is_loopback(found[1].strip("[]").lower())
