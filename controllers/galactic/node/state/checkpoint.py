"""The node's durable records: a small JSON file per attachment, one for the node, and one for its traffic.

With them a restart needs neither API server nor broker to know its attachments. Files are replaced whole (written aside
and renamed), so that the end of this process at any moment leaves the old or the new one. They lie beside the socket,
on a file system that a reboot empties, as it empties the kernel. So they are not synced: a crash of the machine loses
the attachments along with their records, and the event loop never waits for a disk.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import structlog

from galactic import names
from galactic.errors import Unreachable
from galactic.node.state.attachment import Attachment, Key, Peer, Termination

log = structlog.get_logger(__name__)
SUFFIX: Final = ".json"
NODE_FILE: Final = "node.json"
USAGE_FILE: Final = "usage.json"
GATEWAYS_FILE: Final = "gateways.json"
PARTIAL: Final = ".partial"


UNDERSTOOD: Final = 1
"""The latest schema of records that this version reads (docs/design/versions.md)."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A file. Where ``schema`` is missing it is 1, as it was before files had it."""

    schema: int = 1


class AttachmentFile(Record, frozen=True):
    """An attachment as its file has it."""

    vpc: str
    function: str
    name: str
    container: str
    netns: str
    ifname: str
    addresses: tuple[str, ...]
    networks: tuple[str, ...]
    terminations: tuple[tuple[str, str], ...]
    routes: tuple[str, ...]
    mtu: int
    epoch: int
    settled: bool
    pod: str = ""
    peers: tuple[tuple[str, tuple[str, ...]], ...] = ()  # VPC and its networks


class NodeFile(Record, frozen=True):
    """The node itself as its file has it."""

    prefix: str = ""
    clock: int = 0
    filtered: str = ""  # the prefix that the packet filter was last put in place for


class GatewaysFile(Record, frozen=True):
    """The VPCGateways as the API server had them last: a restart without it takes no way out away."""

    gateways: tuple[dict[str, Any], ...] = ()


R = TypeVar("R", AttachmentFile, NodeFile, GatewaysFile)


class Checkpoint:
    """The files below ``directory``. Every failure to write is Unreachable."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._attachments = directory / "attachments"

    def prepare(self) -> None:
        """Makes the directories, readable by root alone, and removes the partial files of an earlier life."""
        with _translated(self._attachments):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._attachments.mkdir(mode=0o700, exist_ok=True)
            for directory in (self._directory, self._attachments):
                directory.chmod(0o700)
                for left in directory.glob(f"*{PARTIAL}"):
                    left.unlink()

    def attachments(self) -> dict[Key, Attachment]:
        """All records. A file that cannot be read is set aside, not deleted, and logged."""
        attachments = {}
        for path in sorted(self._attachments.glob(f"*{SUFFIX}")):
            try:
                attachment = decode(path.read_bytes())
            except (OSError, ValueError) as error:
                log.warning("record not readable, set aside", file=path.name, error=str(error))
                path.replace(path.with_suffix(".unreadable"))
                continue
            attachments[attachment.key] = attachment
        return attachments

    def node(self) -> NodeFile:
        return self._one(NODE_FILE, NodeFile())

    def gateways(self) -> tuple[dict[str, Any], ...]:
        """The VPCGateways, as objects of the API server."""
        return self._one(GATEWAYS_FILE, GatewaysFile()).gateways

    def _one(self, file: str, default: R) -> R:
        try:
            return _read((self._directory / file).read_bytes(), type(default))
        except FileNotFoundError:
            return default
        except (OSError, ValueError) as error:
            log.warning("record not readable, ignored", file=file, error=str(error))
            return default

    def usage(self) -> bytes:
        """The file of usage; empty: there is none."""
        with _translated(self._directory / USAGE_FILE):
            try:
                return (self._directory / USAGE_FILE).read_bytes()
            except FileNotFoundError:
                return b""

    def put_usage(self, data: bytes) -> None:
        """Writes the file of usage."""
        self._write(self._directory / USAGE_FILE, data)

    def put(self, attachment: Attachment) -> None:
        """Writes the attachment's record."""
        self._write(self._path(attachment.key), encode(attachment))

    def put_node(self, node: NodeFile) -> None:
        self._write(self._directory / NODE_FILE, msgspec.json.encode(node))

    def put_gateways(self, gateways: Iterable[dict[str, Any]]) -> None:
        """Writes the record of the VPCGateways."""
        file = GatewaysFile(gateways=tuple(gateways))
        self._write(self._directory / GATEWAYS_FILE, msgspec.json.encode(file))

    def remove(self, key: Key) -> None:
        """Removes the attachment's record."""
        with _translated(self._path(key)):
            self._path(key).unlink(missing_ok=True)

    def _path(self, key: Key) -> Path:
        return self._attachments / f"{names.vpc_hex(key[0])}-{names.function_hex(key[1])}{SUFFIX}"

    def _write(self, path: Path, data: bytes) -> None:
        partial = path.with_suffix(PARTIAL)
        with _translated(path):
            partial.write_bytes(data)
            partial.replace(path)


def encode(attachment: Attachment) -> bytes:
    """The attachment as JSON."""
    values = {field.name: getattr(attachment, field.name) for field in fields(attachment)}
    values |= {
        "vpc": names.vpc_hex(attachment.vpc),
        "function": names.function_hex(attachment.function),
        "terminations": tuple(
            (str(termination.network), str(termination.via)) for termination in attachment.terminations
        ),
    }
    values["peers"] = tuple(
        (names.vpc_hex(peer.vpc), tuple(map(str, peer.networks))) for peer in attachment.peers
    )
    for name in ("addresses", "networks", "routes"):
        values[name] = tuple(map(str, values[name]))
    return msgspec.json.encode(AttachmentFile(**values))


def decode(data: bytes) -> Attachment:
    """The attachment in ``data``. Raises ValueError."""
    file = _read(data, AttachmentFile)
    return Attachment(
        vpc=int(file.vpc, 16),
        function=int(file.function, 16),
        name=file.name,
        container=file.container,
        netns=file.netns,
        ifname=file.ifname,
        addresses=tuple(map(ip_interface, file.addresses)),
        networks=tuple(map(ip_network, file.networks)),
        terminations=tuple(Termination(ip_network(net), ip_address(via)) for net, via in file.terminations),
        routes=tuple(map(ip_network, file.routes)),
        mtu=file.mtu,
        epoch=file.epoch,
        settled=file.settled,
        pod=file.pod,
        peers=tuple(Peer(int(vpc, 16), tuple(map(ip_network, networks))) for vpc, networks in file.peers),
    )


def _read(data: bytes, kind: type[R]) -> R:
    """The record in ``data``. Raises ValueError."""
    schema = msgspec.json.decode(data, type=Record).schema  # first: a newer one may have other types
    if schema > UNDERSTOOD:
        raise ValueError(
            f"schema {schema}, and this version reads up to {UNDERSTOOD}: upgrade the node controller"
        )
    return msgspec.json.decode(data, type=kind)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """An OSError of the file system as Unreachable."""
    try:
        yield
    except OSError as error:
        raise Unreachable("records", f"{path}: {error}") from error
