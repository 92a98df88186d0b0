"""Notifications that a transaction of nf_tables, by any program, may concern Galactic's tables or chains.

The kernel names table and chain of all that a transaction adds and deletes, ``nft flush ruleset`` included. Legacy
tables of iptables have no notifications.
"""

import enum
import socket
from typing import Final

from galactic.errors import Unreachable
from galactic.linux.namespace import Namespace, enlarge
from galactic.linux.notifications import ADD_MEMBERSHIP, SOL_NETLINK, Notifications

_NETFILTER: Final = 12
_GROUP: Final = 7  # NFNLGRP_NFTABLES


class Transaction(enum.Flag):
    """The part of the packet filter that a transaction may have changed."""

    POLICIES = enum.auto()
    GATEWAYS = enum.auto()
    FRAGMENTS = enum.auto()
    CHAINS = enum.auto()


EVERYTHING: Final = ~Transaction(0)
_NAMES: Final = {
    b"galactic-policy\0": Transaction.POLICIES,
    b"galactic-gateways\0": Transaction.GATEWAYS,
    b"galactic-fragments\0": Transaction.FRAGMENTS,
    b"GALACTIC-": Transaction.CHAINS,
    # a deleted jump is reported by its chain alone
    b"PREROUTING\0": Transaction.CHAINS,
    b"FORWARD\0": Transaction.CHAINS,
    b"INPUT\0": Transaction.CHAINS,
    b"OUTPUT\0": Transaction.CHAINS,
}
"""Attributes of messages. That other chains' names end so does no harm."""


class NftEvents(Notifications[Transaction]):
    """Of transactions, Galactic's own among them. Raises Unreachable, also where the kernel has no nf_tables."""

    def __init__(self, namespace: Namespace | None = None) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        try:
            made = (namespace or Namespace.own()).run(
                lambda: socket.socket(socket.AF_NETLINK, kind, _NETFILTER)
            )
        except OSError as error:
            raise Unreachable("nf_tables", error.strerror or str(error)) from error
        try:
            made.bind((0, 0))
            made.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, _GROUP)
        except OSError as error:
            made.close()
            raise Unreachable("nf_tables", error.strerror or str(error)) from error
        enlarge(made)
        super().__init__(made, EVERYTHING, "nf_tables")

    def _kinds(self, datagram: bytes) -> Transaction:
        changed = Transaction(0)
        for name, part in _NAMES.items():
            if name in datagram:
                changed |= part
        return changed
