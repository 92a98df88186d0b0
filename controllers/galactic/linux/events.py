"""Notifications that another program changed kernel objects of Galactic. The drift loop waits for them.

They name the kinds of objects to check, not the change itself. A socket filter in the kernel drops messages about other
programs' routes, and about changes of this process. So neither a routing daemon with a full table nor Galactic's
100,000 routes wake this process.
"""

import ctypes
import enum
import socket
import struct
from collections.abc import Iterator
from typing import Final

from galactic.linux.devices import is_galactic
from galactic.linux.namespace import Namespace, device_name
from galactic.linux.netlink import HEADER, RTM_DELROUTE, RTM_NEWROUTE, attributes
from galactic.linux.notifications import ADD_MEMBERSHIP, SOL_NETLINK, Notifications
from galactic.linux.objects import LOOPBACK_DEVICE, MAIN_TABLE, PROTOCOL

_RTM_NEWLINK, _RTM_DELLINK, _RTM_NEWADDR, _RTM_DELADDR, _RTM_NEWRULE, _RTM_DELRULE = 16, 17, 20, 21, 32, 33
_RTM_NEWNETCONF: Final = 80
_GROUPS: Final = (
    1,  # RTNLGRP_LINK
    5,  # IPV4_IFADDR
    7,  # IPV4_ROUTE
    8,  # IPV4_RULE
    9,  # IPV6_IFADDR
    11,  # IPV6_ROUTE
    19,  # IPV6_RULE
    24,  # IPV4_NETCONF
    25,  # IPV6_NETCONF
)
_IFLA_IFNAME: Final = 3
_FRA_TABLE, _FRA_L3MDEV, _FRA_PROTOCOL = 15, 19, 21
_LOCAL_TABLE: Final = 255
_NETCONFA_IFINDEX: Final = 1
_ALL, _DEFAULT = -1, -2  # NETCONFA_IFINDEX_ALL and _DEFAULT
_IFINFOMSG_SIZE, _IFADDRMSG_SIZE, _FIB_RULE_SIZE, _NETCONFMSG_SIZE = 16, 8, 12, 4
_SO_ATTACH_FILTER: Final = 26
_PROTOCOL_AT: Final = HEADER.size + 5  # rtm_protocol
_PORT_AT: Final = 12  # nlmsg_pid: the port that requested the change
_TYPE_AT: Final = 4
_INDEX: Final = struct.Struct("=I")
_SIGNED: Final = struct.Struct("=i")


class Changed(enum.Flag):
    """Kinds of objects to check."""

    LINKS = enum.auto()
    ADDRESSES = enum.auto()
    ROUTES = enum.auto()
    RULES = enum.auto()
    SYSCTLS = enum.auto()


EVERYTHING: Final = Changed.LINKS | Changed.ADDRESSES | Changed.ROUTES | Changed.RULES | Changed.SYSCTLS


class Events(Notifications[Changed]):
    """``own_port`` is the netlink port that writes Galactic's routes (``LinuxKernel.port``); its changes are not
    reported. Changes of links, addresses and rules are reported even if this process made them: they are few.

    Of Galactic's sysctls the kernel notifies forwarding and rp_filter only. Those of ``all``, ``default`` and
    lo-galactic are reported; messages about sysctls of other devices come with every new device, and are ignored.
    """

    def __init__(self, namespace: Namespace | None = None, *, own_port: int = 0) -> None:
        super().__init__((namespace or Namespace.own()).netlink(packed=False), EVERYTHING, "kernel")
        _attach(self._socket, own_port)
        self._socket.bind((0, 0))
        for group in _GROUPS:
            self._socket.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, group)

    def _kinds(self, datagram: bytes) -> Changed:
        changed = Changed(0)
        position = 0
        while position + HEADER.size <= len(datagram):
            length, kind, *_ = HEADER.unpack_from(datagram, position)
            changed |= self._kind(kind, datagram[position + HEADER.size : position + length])
            position += length + 3 & ~3
        return changed

    def _kind(self, kind: int, body: bytes) -> Changed:
        if kind in (RTM_NEWROUTE, RTM_DELROUTE):
            return Changed.ROUTES
        if kind in (_RTM_NEWLINK, _RTM_DELLINK):
            name = (
                dict(attributes(body[_IFINFOMSG_SIZE:]))
                .get(_IFLA_IFNAME, b"")
                .rstrip(b"\0")
                .decode(errors="replace")
            )
            return Changed.LINKS if is_galactic(name) else Changed(0)
        if kind in (_RTM_NEWADDR, _RTM_DELADDR):
            (index,) = _INDEX.unpack_from(body, 4)
            return Changed.ADDRESSES if is_galactic(device_name(self._socket, index)) else Changed(0)
        if kind in (_RTM_NEWRULE, _RTM_DELRULE):
            return Changed.RULES if _decides(body) else Changed(0)
        if kind == _RTM_NEWNETCONF:
            raw = dict(attributes(body[_NETCONFMSG_SIZE:])).get(_NETCONFA_IFINDEX, bytes(4))
            (index,) = _SIGNED.unpack(raw)
            loopback = index > 0 and device_name(self._socket, index) == LOOPBACK_DEVICE
            return Changed.SYSCTLS if index in (_ALL, _DEFAULT) or loopback else Changed(0)
        return Changed(0)


def _decides(rule: bytes) -> bool:
    """Whether a rule (fib_rule_hdr and attributes) is Galactic's, or one to the table local, main or a VRF's own.

    Rules to main with a source or destination do not count: other networks have one for each of their pods.
    """
    parts = dict(attributes(rule[_FIB_RULE_SIZE:]))
    if parts.get(_FRA_PROTOCOL) == bytes([PROTOCOL]) or any(parts.get(_FRA_L3MDEV, b"")):
        return True
    number = parts.get(_FRA_TABLE, b"")
    table = _INDEX.unpack(number)[0] if len(number) == _INDEX.size else 0
    return table in (_LOCAL_TABLE, MAIN_TABLE) and not any(rule[1:3])  # dst_len, src_len


def _filter(own_port: int) -> Iterator[tuple[int, int, int, int]]:
    """A classic BPF program (linux/filter.h): drops route messages of other protocols, or that this process caused.

    Loads are big-endian, netlink is in host order.
    """
    load_half, load_word, load_byte, equal, give = 0x28, 0x20, 0x30, 0x15, 0x06
    everything, nothing = 0xFFFFFFFF, 0
    yield load_half, 0, 0, _TYPE_AT
    yield equal, 1, 0, socket.htons(RTM_NEWROUTE)
    yield equal, 0, 4, socket.htons(RTM_DELROUTE)
    yield load_byte, 0, 0, _PROTOCOL_AT
    yield equal, 0, 3, PROTOCOL
    yield load_word, 0, 0, _PORT_AT
    yield equal, 1, 0, socket.htonl(own_port) if own_port else 0xFFFFFFFF
    yield give, 0, 0, everything
    yield give, 0, 0, nothing


def _attach(made: socket.socket, own_port: int) -> None:
    program = b"".join(struct.pack("=HBBI", *instruction) for instruction in _filter(own_port))
    buffer = ctypes.create_string_buffer(program, len(program))
    made.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    )
