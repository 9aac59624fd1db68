"""Print one line when this run's port can be reached from the internet, as far as addresses tell.

    python launch/warn_public.py [MASTER_ADDR]

torchrun's store listens on every interface of node 0, whatever it is told, and whoever reaches it can make a node run
commands. The exit status is 0.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
import sys
from collections.abc import Iterable
from pathlib import Path


def public(addresses: Iterable[str]) -> list[str]:
    """Return those of `addresses` that the whole internet can route to."""
    found = []
    for address in addresses:
        with contextlib.suppress(ValueError):
            if ipaddress.ip_address(address.partition("%")[0]).is_global:
                found.append(address)
    return sorted(set(found))


def own_addresses() -> list[str]:
    """Return the addresses of this machine's interfaces, as Linux lists them; elsewhere those of its name."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/net/fib_trie").read_text(encoding="ascii")
        found = re.findall(r"\|-- (\S+)\n\s+/32 host LOCAL", lines)
        with contextlib.suppress(OSError):
            for line in Path("/proc/net/if_inet6").read_text(encoding="ascii").splitlines():
                found.append(str(ipaddress.IPv6Address(bytes.fromhex(line[:32]))))
        return found
    return resolved(socket.gethostname())


def resolved(name: str) -> list[str]:
    """Return the addresses of a host; none where it is not known."""
    with contextlib.suppress(OSError, UnicodeError):
        return [str(entry[4][0]) for entry in socket.getaddrinfo(name, None)]
    return []


def warning(master: str) -> str:
    """Return the line, or ""."""
    named = public(resolved(master)) if master else []
    own = public(own_addresses())
    if not named and not own:
        return ""
    what = (
        f"MASTER_ADDR {master!r} is the public address {named[0]}" if named else f"this host has the address {own[0]}"
    )
    return (
        f"{what}: torchrun listens on every interface, and whoever reaches its port can run commands here; expected a "
        "trusted network; close the ports to all but the nodes"
    )


if __name__ == "__main__":
    sys.stdout.write(warning(sys.argv[1] if len(sys.argv) > 1 else ""))
