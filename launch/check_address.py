"""Print the address by which the other nodes of a run reach this one, or in one line why they could not meet.

    python launch/check_address.py MASTER_ADDR MASTER_PORT NODE_RANK

Node 0 must own the address and find the port free; the others must know the name. Exit status 1 with a problem.
"""

from __future__ import annotations

import errno
import socket
import sys


def problem(host: str, port: int, node_rank: int) -> str:
    """Return what is wrong, or ""."""
    try:
        found = socket.getaddrinfo(host, port, family=socket.AF_INET, type=socket.SOCK_STREAM)
    except OSError as err:
        reason = err.strerror or err
        return f"MASTER_ADDR: {host!r} is not known here ({reason}); expected the name or IPv4 address of node 0"
    if node_rank > 0:
        return ""
    for *_, address in found:
        # The port must be free on the address and on all others: the store listens on every one.
        for name in (address[0], ""):
            failure = _bind(name, port)
            if failure == errno.EADDRINUSE:
                return f"MASTER_PORT: {port} is in use on this node; expected a free port; set MASTER_PORT=..."
            if failure == errno.EADDRNOTAVAIL:
                return f"NODE_RANK: found 0, but MASTER_ADDR {host!r} is not this node; 0 is the node that owns it"
            if failure:
                return f"MASTER_PORT: {port} cannot be opened here ({errno.errorcode.get(failure, failure)})"
    return ""


def own_address(host: str, port: int) -> str:
    """Return the address of this machine on its way to `host`; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, port))
        except OSError:
            return socket.getfqdn()
        return str(probe.getsockname()[0])


def _bind(name: str, port: int) -> int:
    """Return the error number of listening there, or 0."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((name, port))
            server.listen(1)
        except OSError as err:
            return err.errno or errno.EINVAL
    return 0


if __name__ == "__main__":
    text = problem(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    sys.stdout.write(text or own_address(sys.argv[1], int(sys.argv[2])))
    sys.exit(1 if text else 0)
