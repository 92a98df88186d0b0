"""rtnetlink messages for routes, packed and unpacked (rtnetlink(7), uapi/linux/{rtnetlink,lwtunnel,seg6*}.h).

Pure: bytes in, values out. pyroute2 does everything else; for tables of 100,000 routes it is two orders too slow.
Devices are indexes here, as in the messages; the caller maps them to names.
"""

import socket
import struct
from collections.abc import Callable, Iterator
from functools import cache
from ipaddress import IPv6Network
from typing import Final, NamedTuple

from galactic.linux.objects import (
    IPV6_METRIC,
    LENGTHS,
    PROTOCOL,
    WAY_OUT_METRIC,
    Balanced,
    Direct,
    Encap,
    EncapMode,
    EncapSink,
    EndDT46,
    Other,
    RouteKey,
    RouteTarget,
    Unreachable,
    Via,
)

NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
RTM_NEWROUTE: Final = 24
RTM_DELROUTE: Final = 25
RTM_GETROUTE: Final = 26
NLM_F_REQUEST: Final = 0x1
NLM_F_ACK: Final = 0x4
NLM_F_DUMP_INTR: Final = 0x10
NLM_F_REPLACE: Final = 0x100
NLM_F_EXCL: Final = 0x200
NLM_F_DUMP: Final = 0x300
NLM_F_CREATE: Final = 0x400

_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_MULTIPATH = 1, 4, 5, 6, 9
_RTA_TABLE, _RTA_VIA, _RTA_ENCAP_TYPE, _RTA_ENCAP, _RTA_NH_ID = 15, 18, 21, 22, 30
_RTN_UNICAST, _RTN_UNREACHABLE = 1, 7
_RTPROT_RA = 9
_SCOPE_UNIVERSE, _SCOPE_LINK, _SCOPE_NOWHERE = 0, 253, 255
_RTNH_F_ONLINK = 4
_ENCAP_SEG6, _ENCAP_SEG6_LOCAL = 5, 7
_SEG6_IPTUNNEL_SRH = 1
_SEG6_LOCAL_ACTION, _SEG6_LOCAL_VRFTABLE = 1, 9
_ACTION_END_DT46 = 16
_NESTED = 0x8000
_KIND_MASK = 0x3FFF

_MODES: Final = {"encap": 1, "encap.red": 3}
_MODE_NAMES: Final = {number: name for name, number in _MODES.items()}
_SRH: Final = struct.pack("=BBBBBBH", 0, 2, 4, 0, 0, 0, 0)
"""A segment routing header of one segment (RFC 8754 §2): length 2 times 8 bytes, type 4, nothing left, last entry 0."""

HEADER: Final = struct.Struct("=IHHII")
"""nlmsghdr: length, type, flags, sequence, port."""
_ROUTE: Final = struct.Struct(
    "=BBBBBBBBI"
)  # rtmsg: family, dst and src length, tos, table, protocol, scope, type, flags
_WHOLE: Final = {
    (family, prioritised): struct.Struct(f"=IHHII BBBBBBBBI HH{size}s HHI" + "HHI" * prioritised)
    for family, size in ((socket.AF_INET, 4), (socket.AF_INET6, 16))
    for prioritised in (False, True)
}
"""By family and whether there is a priority: nlmsghdr, rtmsg, destination, table, priority."""
_KEY: Final = struct.Struct(">IIB")  # as in galactic.linux.objects
_ATTRIBUTE: Final = struct.Struct("=HH")
_NUMBER: Final = struct.Struct("=HHI")
_U32: Final = struct.Struct("=I")
_ERROR: Final = struct.Struct("=i")
_NEXT_HOP: Final = struct.Struct("=HxxI")  # rtnexthop: length, flags, hops, ifindex
_HOP: Final = struct.Struct("=HBBI")
"""The same, with flags and hops."""
_ANY_GATEWAY: Final = bytes.fromhex("fe80") + bytes(13) + b"\1"
"""IPv6 has several next hops of a route only where each has a gateway; an encapsulation does not look at it."""
_HEAD: Final = HEADER.size + _ROUTE.size
_KEY_SIZES: Final = {_KEY.size + 4: socket.AF_INET, _KEY.size + 16: socket.AF_INET6}


class Reply(NamedTuple):
    """The kernel's answer to the message with that sequence number: an errno, 0 being the acknowledgement."""

    sequence: int
    errno: int


class Encoder:
    """Makes RTM_NEWROUTE and RTM_DELROUTE messages.

    ``index`` returns a device's index, or raises for a missing device. It is called once for each device, so an encoder
    must not be kept.
    """

    def __init__(self, index: Callable[[str], int]) -> None:
        self._index = index
        self._devices: dict[str, bytes] = {}

    def set(self, key: RouteKey, target: RouteTarget, sequence: int) -> bytes:
        """The message that creates or replaces a route."""
        flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE
        return self._message(RTM_NEWROUTE, flags, key, target, sequence)

    def create(self, key: RouteKey, target: RouteTarget, sequence: int) -> bytes:
        """The message that creates a route, unless there is one of its key, of any program."""
        flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL
        return self._message(RTM_NEWROUTE, flags, key, target, sequence)

    def delete(self, key: RouteKey, target: RouteTarget, sequence: int) -> bytes:
        """The message that deletes a route. It has protocol, type and device, so that it matches no other route."""
        return self._message(RTM_DELROUTE, NLM_F_REQUEST, key, target, sequence)

    def encaps(self, device: str, mode: EncapMode) -> Callable[[RouteKey, bytes, bool, int], bytes]:
        """A function that makes messages of (key, packed segment, delete?, sequence): there may be 100,000 to write."""
        lead = self._device(device) + _ENCAP_HEADS[mode]
        parts = {
            size: struct.Struct(f"=8s I 20s {size}s 12s I {len(lead)}s 16s {len(_ENCAP_TAIL)}s")
            for size in (4, 16)
        }

        @cache
        def constants(table: int, length: int, size: int, gone: bool) -> tuple[bytes, bytes, bytes]:
            """The bytes that all routes of one length in a table share, packed once."""
            family, scope = (
                (socket.AF_INET6, _SCOPE_UNIVERSE) if size == 16 else (socket.AF_INET, _SCOPE_LINK)
            )
            kind, flags = RTM_NEWROUTE, NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE
            if gone:
                kind, flags, scope = RTM_DELROUTE, NLM_F_REQUEST, _SCOPE_NOWHERE
            route = _ROUTE.pack(family, length, 0, 0, 0, PROTOCOL, scope, _RTN_UNICAST, 0)
            return (
                HEADER.pack(parts[size].size, kind, flags, 0, 0)[:8],
                bytes(4) + route + _ATTRIBUTE.pack(4 + size, _RTA_DST),
                _NUMBER.pack(8, _RTA_TABLE, table) + _ATTRIBUTE.pack(8, _RTA_PRIORITY),
            )

        def message(key: RouteKey, segment: bytes, gone: bool, sequence: int) -> bytes:
            table, metric, length = _KEY.unpack_from(key)
            destination = key[_KEY.size :]
            size = len(destination)
            if size == 16:
                metric = metric or IPV6_METRIC
            head, route, place = constants(table, length, size, gone)
            return parts[size].pack(
                head, sequence, route, destination, place, metric, lead, segment, _ENCAP_TAIL
            )

        return message

    def _message(self, kind: int, flags: int, key: RouteKey, target: RouteTarget, sequence: int) -> bytes:
        table, metric, length = _KEY.unpack_from(key)
        six = _KEY_SIZES[len(key)] == socket.AF_INET6
        route_type, scope, route_flags, tail = self._target(target, six)
        destination = key[_KEY.size :]
        family = _KEY_SIZES[len(key)]
        if family == socket.AF_INET6:
            scope = _SCOPE_UNIVERSE
            metric = metric or IPV6_METRIC
        if kind == RTM_DELROUTE:
            scope = _SCOPE_NOWHERE  # any
        whole, size = _WHOLE[family, bool(metric)], len(destination)
        # one call for everything but the tail: it is half the time of writing a large table
        message = whole.pack(
            *(whole.size + len(tail), kind, flags, sequence, 0),
            *(family, length, 0, 0, 0, PROTOCOL, scope, route_type, route_flags),
            *(4 + size, _RTA_DST, destination),
            *(8, _RTA_TABLE, table),
            *((8, _RTA_PRIORITY, metric) if metric else ()),
        )
        return message + tail

    def _target(  # noqa: PLR0911 - one a kind
        self, target: RouteTarget, six: bool
    ) -> tuple[int, int, int, bytes]:
        """Route type, IPv4 scope, route flags, attributes."""
        if type(target) is Encap:
            tail = self._device(target.device) + _ENCAP_HEADS[target.mode] + target.segment + _ENCAP_TAIL
            return _RTN_UNICAST, _SCOPE_LINK, 0, tail
        match target:
            case Unreachable():
                return _RTN_UNREACHABLE, _SCOPE_UNIVERSE, 0, b""
            case Direct(device):
                return _RTN_UNICAST, _SCOPE_LINK, 0, self._device(device)
            case Via(device, gateway):
                tail = self._device(device) + _attribute(_RTA_GATEWAY, gateway)
                return _RTN_UNICAST, _SCOPE_UNIVERSE, _RTNH_F_ONLINK, tail
            case Balanced():
                return _RTN_UNICAST, _SCOPE_LINK, 0, self._hops(target, six)
            case EndDT46(device, table):
                action = _NUMBER.pack(8, _SEG6_LOCAL_ACTION, _ACTION_END_DT46)
                action += _NUMBER.pack(8, _SEG6_LOCAL_VRFTABLE, table)
                return _RTN_UNICAST, _SCOPE_LINK, 0, self._device(device) + _encap(_ENCAP_SEG6_LOCAL, action)
            case _:
                return 0, _SCOPE_NOWHERE, 0, b""

    def _hops(self, target: Balanced, six: bool) -> bytes:
        """Several next hops (``struct rtnexthop``)."""
        index, hops = self._index(target.device), b""
        for segment, weight in target.hops:
            tail = (_RTA_GATEWAY_SIX if six else b"") + _ENCAP_HEADS[target.mode] + segment + _ENCAP_TAIL
            hops += _HOP.pack(_HOP.size + len(tail), 0, weight - 1, index) + tail
        return _attribute(_RTA_MULTIPATH, hops)

    def _device(self, name: str) -> bytes:
        made = self._devices.get(name)
        if made is None:
            made = self._devices[name] = _NUMBER.pack(8, _RTA_OIF, self._index(name))
        return made


class Decoder:
    """Makes keys and targets of dumped routes.

    ``name`` returns the name of the device with an index, "" if it is gone. Routes through the encapsulation
    ``mode`` on the device with the index ``encaps`` go to ``sink``, if there is one, and are not kept.
    """

    def __init__(
        self,
        name: Callable[[int], str],
        *,
        encaps: int = 0,
        mode: EncapMode = "encap.red",
        sink: EncapSink | None = None,
    ) -> None:
        self._name, self._sink = name, sink
        self._encaps = encaps if sink else 0
        self._head = _NESTED_HEADS[mode]
        self._names: dict[int, str] = {}
        self.routes: dict[RouteKey, RouteTarget] = {}
        self.interrupted = False
        """The table changed during the dump: routes may be missing or doubled."""

    def feed(self, datagram: bytes) -> Reply | None:
        """Decodes the bytes of one recv(2). Returns the dump's end or refusal; None: more follows."""
        position, size = 0, len(datagram)
        while position + HEADER.size <= size:
            length, kind, flags, sequence, _ = HEADER.unpack_from(datagram, position)
            self.interrupted |= bool(flags & NLM_F_DUMP_INTR)
            if kind == RTM_NEWROUTE:
                self._route(datagram, position + HEADER.size, position + length)
            elif kind in (NLMSG_DONE, NLMSG_ERROR):
                has_code = length >= HEADER.size + 4
                return Reply(
                    sequence, -_ERROR.unpack_from(datagram, position + HEADER.size)[0] if has_code else 0
                )
            position += length + 3 & ~3
        return None

    def _route(self, data: bytes, position: int, end: int) -> None:  # noqa: C901, PLR0912 - hot: one branch an attribute
        family, length, _, tos, table, protocol, _, route_type, _ = _ROUTE.unpack_from(data, position)
        if protocol != PROTOCOL:
            return
        destination = b"\0\0\0\0" if family == socket.AF_INET else bytes(16)
        metric = index = encap_type = 0
        gateway = encap = hops = b""
        known = not tos
        position += _ROUTE.size
        unpack, number = _ATTRIBUTE.unpack_from, _U32.unpack_from
        while position < end:
            size, kind = unpack(data, position)
            kind &= _KIND_MASK
            if kind == _RTA_DST:
                destination = data[position + 4 : position + size]
            elif kind == _RTA_TABLE:
                (table,) = number(data, position + 4)
            elif kind == _RTA_OIF:
                (index,) = number(data, position + 4)
            elif kind == _RTA_PRIORITY:
                (metric,) = number(data, position + 4)
            elif kind == _RTA_ENCAP:
                encap = data[position + 4 : position + size]
            elif kind == _RTA_ENCAP_TYPE:
                encap_type = data[position + 4] | data[position + 5] << 8
            elif kind == _RTA_GATEWAY:
                gateway = data[position + 4 : position + size]
            elif kind == _RTA_MULTIPATH:
                hops = data[position + 4 : position + size]
            elif kind in (_RTA_VIA, _RTA_NH_ID):
                known = False
            position += size + 3 & ~3
        if metric == IPV6_METRIC and family == socket.AF_INET6:
            metric = 0
        if (
            index == self._encaps
            and encap_type == _ENCAP_SEG6
            and known
            and not gateway
            and self._sink
            and metric != WAY_OUT_METRIC
        ):
            size = len(self._head)
            if encap[:size] == self._head and len(encap) == size + 16:
                self._sink(table, LENGTHS[length] + destination, metric, encap[size:])
                return
        key = _KEY.pack(table, metric, length) + destination
        if hops:
            self.routes[key] = self._balanced(hops) if known else Other()
            return
        self.routes[key] = self._target(route_type if known else 0, index, gateway, encap_type, encap)

    def _balanced(self, data: bytes) -> RouteTarget:
        """Several next hops, if each is an encapsulation on the same device."""
        found: list[tuple[Encap, int]] = []
        position = 0
        while position + _HOP.size <= len(data):
            size, _, hops, index = _HOP.unpack_from(data, position)
            parts = dict(attributes(data[position + _HOP.size : position + size]))
            kind = int.from_bytes(parts.get(_RTA_ENCAP_TYPE, b"")[:2], "little")
            target = _encap_target(self._name(index), b"", kind, parts.get(_RTA_ENCAP, b"")) if kind else None
            if not isinstance(target, Encap) or parts.get(_RTA_GATEWAY, _ANY_GATEWAY) != _ANY_GATEWAY:
                return Other()
            found.append((target, hops + 1))
            position += max(size + 3 & ~3, _HOP.size)
        if len({(target.device, target.mode) for target, _ in found}) != 1:
            return Other()
        first = found[0][0]
        return Balanced(first.device, tuple((target.segment, weight) for target, weight in found), first.mode)

    def _target(
        self, route_type: int, index: int, gateway: bytes, encap_type: int, encap: bytes
    ) -> RouteTarget:
        if route_type == _RTN_UNREACHABLE:
            return Unreachable()
        device = self._names.get(index)
        if device is None:
            device = self._names[index] = self._name(index)
        if route_type != _RTN_UNICAST or not device:
            return Other()
        if encap_type:
            return _encap_target(device, gateway, encap_type, encap) or Other()
        return Via(device, gateway) if gateway else Direct(device)


class DevicesTowards:
    """Collects the devices of dumped IPv6 routes that other programs made and that overlap a network.

    ``devices``: their indexes. Routes of several next hops have several: ``shared`` has these as sets.
    ``advertised``: those of routes to anywhere that router advertisements have brought (RTPROT_RA).
    """

    def __init__(self, network: IPv6Network) -> None:
        self._network, self._length = int(network.network_address), network.prefixlen
        self.devices: set[int] = set()
        self.shared: list[set[int]] = []
        self.advertised: set[int] = set()

    def feed(self, datagram: bytes) -> Reply | None:
        """Decodes the bytes of one recv(2). Returns the dump's end or refusal; None: more follows."""
        position, size = 0, len(datagram)
        while position + HEADER.size <= size:
            length, kind, _, sequence, _ = HEADER.unpack_from(datagram, position)
            if kind == RTM_NEWROUTE:
                self._route(datagram[position + HEADER.size : position + length])
            elif kind in (NLMSG_DONE, NLMSG_ERROR):
                has_code = length >= HEADER.size + 4
                return Reply(
                    sequence, -_ERROR.unpack_from(datagram, position + HEADER.size)[0] if has_code else 0
                )
            position += length + 3 & ~3
        return None

    def _route(self, route: bytes) -> None:
        _, length, _, _, _, protocol, _, route_type, _ = _ROUTE.unpack_from(route)
        if route_type != _RTN_UNICAST or protocol == PROTOCOL:
            return
        parts = dict(attributes(route[_ROUTE.size :]))
        indexes = {_U32.unpack_from(parts[_RTA_OIF])[0]} if _RTA_OIF in parts else set()
        hops, position = parts.get(_RTA_MULTIPATH, b""), 0
        while position + _NEXT_HOP.size <= len(hops):
            size, index = _NEXT_HOP.unpack_from(hops, position)
            indexes.add(index)
            position += max(size + 3 & ~3, _NEXT_HOP.size)
        if protocol == _RTPROT_RA:
            self.advertised |= indexes
        apart = 128 - min(length, self._length)
        destination = int.from_bytes(parts.get(_RTA_DST, b"").ljust(16, b"\0"), "big")
        if destination >> apart == self._network >> apart:
            self.devices |= indexes
            self.shared += [indexes] if len(indexes) > 1 else []


def dump_request(
    family: int, sequence: int, *, table: int = 0, device: int = 0, protocol: int = PROTOCOL, kind: int = 0
) -> bytes:
    """A request for the routes of a family, or of one table and device. For sockets with strict checking.

    ``protocol`` 0: of all programs; by default Galactic's. ``kind``: a type (RTN_…); 0: all.
    """
    attributes = _NUMBER.pack(8, _RTA_TABLE, table) if table else b""
    attributes += _NUMBER.pack(8, _RTA_OIF, device) if device else b""
    route = _ROUTE.pack(family, 0, 0, 0, 0, protocol, 0, kind, 0)
    flags = NLM_F_REQUEST | NLM_F_DUMP
    return HEADER.pack(_HEAD + len(attributes), RTM_GETROUTE, flags, sequence, 0) + route + attributes


def replies(datagram: bytes) -> Iterator[Reply]:
    """The acknowledgements and refusals in the bytes of one recv(2)."""
    position = 0
    while position + HEADER.size <= len(datagram):
        length, kind, _, sequence, _ = HEADER.unpack_from(datagram, position)
        if kind == NLMSG_ERROR:
            yield Reply(sequence, -_ERROR.unpack_from(datagram, position + HEADER.size)[0])
        position += length + 3 & ~3


def acknowledged(message: bytes) -> bytes:
    """The same message with a request for an acknowledgement."""
    length, kind, flags, sequence, port = HEADER.unpack_from(message)
    return HEADER.pack(length, kind, flags | NLM_F_ACK, sequence, port) + message[HEADER.size :]


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def _encap(kind: int, nested: bytes) -> bytes:
    return _attribute(_RTA_ENCAP | _NESTED, nested) + _attribute(_RTA_ENCAP_TYPE, struct.pack("=H", kind))


def _encap_target(device: str, gateway: bytes, encap_type: int, encap: bytes) -> RouteTarget | None:
    if gateway:
        return None
    parts = dict(attributes(encap))
    if encap_type == _ENCAP_SEG6 and set(parts) == {_SEG6_IPTUNNEL_SRH}:
        tunnel = parts[_SEG6_IPTUNNEL_SRH]
        mode = _MODE_NAMES.get(_U32.unpack_from(tunnel)[0])
        segment = tunnel[4 + len(_SRH) :]
        one = len(segment) == 16 and tunnel[4 : 4 + len(_SRH)] == _SRH
        return Encap(device, segment, mode) if mode and one else None  # type: ignore[arg-type]
    if encap_type == _ENCAP_SEG6_LOCAL and set(parts) == {_SEG6_LOCAL_ACTION, _SEG6_LOCAL_VRFTABLE}:
        if _U32.unpack(parts[_SEG6_LOCAL_ACTION])[0] != _ACTION_END_DT46:
            return None
        return EndDT46(device, _U32.unpack(parts[_SEG6_LOCAL_VRFTABLE])[0])
    return None


_NESTED_HEADS: Final = {
    mode: _ATTRIBUTE.pack(4 + 4 + len(_SRH) + 16, _SEG6_IPTUNNEL_SRH) + _U32.pack(number) + _SRH
    for mode, number in _MODES.items()
}
"""By mode, the bytes of a seg6 encapsulation of one segment, up to the segment itself."""
_ENCAP_HEADS: Final = {
    mode: _ATTRIBUTE.pack(4 + len(head) + 16, _RTA_ENCAP | _NESTED) + head
    for mode, head in _NESTED_HEADS.items()
}
_ENCAP_TAIL: Final = _attribute(_RTA_ENCAP_TYPE, struct.pack("=H", _ENCAP_SEG6))


_RTA_GATEWAY_SIX: Final = _attribute(_RTA_GATEWAY, _ANY_GATEWAY)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(kind, value) of each attribute, without the nesting flag."""
    position = 0
    while position + _ATTRIBUTE.size <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, position)
        yield kind & _KIND_MASK, data[position + 4 : position + size]
        position += max(size + 3 & ~3, 4)
