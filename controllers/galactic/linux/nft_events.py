"""Notifications that a transaction of nf_tables, by any program, may concern Galactic's tables or chains.

The kernel names table and chain of all that a transaction adds and deletes, ``nft flush ruleset`` included. Legacy
tables of iptables have no notifications.
"""

import asyncio
import enum
import errno
import socket
from typing import Final, Self

from galactic.errors import Unreachable
from galactic.linux.namespace import Namespace, enlarge

_NETFILTER: Final = 12
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_GROUP: Final = 7  # NFNLGRP_NFTABLES
_PART: Final = 1 << 16


class Transaction(enum.Flag):
    """The part of the packet filter that a transaction may have changed."""

    POLICIES = enum.auto()
    GATEWAYS = enum.auto()
    CHAINS = enum.auto()


EVERYTHING: Final = Transaction.POLICIES | Transaction.GATEWAYS | Transaction.CHAINS
_NAMES: Final = {
    b"galactic-policy\0": Transaction.POLICIES,
    b"galactic-gateways\0": Transaction.GATEWAYS,
    b"GALACTIC-": Transaction.CHAINS,
    # a deleted jump is reported by its chain alone
    b"PREROUTING\0": Transaction.CHAINS,
    b"FORWARD\0": Transaction.CHAINS,
    b"INPUT\0": Transaction.CHAINS,
    b"OUTPUT\0": Transaction.CHAINS,
}
"""Attributes of messages. That other chains' names end so does no harm."""


class NftEvents:
    """An asynchronous iterator of ``Transaction``, for one consumer; Galactic's own are among them. Raises Unreachable,
    also where the kernel has no nf_tables.
    """

    def __init__(self, namespace: Namespace | None = None) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        try:
            self._socket = (namespace or Namespace.own()).run(
                lambda: socket.socket(socket.AF_NETLINK, kind, _NETFILTER)
            )
        except OSError as error:
            raise Unreachable("nf_tables", error.strerror or str(error)) from error
        try:
            self._socket.bind((0, 0))
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP)
        except OSError as error:
            self._socket.close()
            raise Unreachable("nf_tables", error.strerror or str(error)) from error
        enlarge(self._socket)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Transaction:
        """Of the transactions since the last call; waits for the first. Raises Unreachable."""
        loop = asyncio.get_running_loop()
        changed = Transaction(0)
        while not changed:
            try:
                changed = _concerned(await loop.sock_recv(self._socket, _PART))
                while True:
                    changed |= _concerned(self._socket.recv(_PART))
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise Unreachable("nf_tables", f"waiting for events: {error.strerror}") from error
                return EVERYTHING  # some were lost
        return changed

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _concerned(datagram: bytes) -> Transaction:
    changed = Transaction(0)
    for name, part in _NAMES.items():
        if name in datagram:
            changed |= part
    return changed
