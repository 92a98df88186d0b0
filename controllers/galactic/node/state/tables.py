"""The remote routes of all VPCs that are hosted here."""

from collections.abc import Iterable, Iterator, Mapping

from galactic.linux.objects import Network, PackedNetwork, packed, unpacked
from galactic.node.state.attachment import Attachment, Key
from galactic.node.state.attachments import LocalAttachments
from galactic.node.state.remote import Entry, Ranges, RemoteRoutes, Source, View


class RemoteTables(Mapping[int, RemoteRoutes]):
    """``RemoteRoutes`` by VPC, for every VPC that is hosted here, or was until a moment ago."""

    def __init__(self, attachments: LocalAttachments) -> None:
        self._attachments = attachments
        self._here = b""
        self._tables: dict[int, RemoteRoutes] = {}

    def __getitem__(self, vpc: int) -> RemoteRoutes:
        return self._tables[vpc]

    def __iter__(self) -> Iterator[int]:
        return iter(self._tables)

    def __len__(self) -> int:
        return len(self._tables)

    def ensure(self, vpc: int) -> RemoteRoutes:
        """The VPC's, made empty where it has none."""
        if vpc not in self._tables:
            self._tables[vpc] = RemoteRoutes(self._here, vpc)
        return self._tables[vpc]

    def locate(self, here: bytes) -> None:
        """How the SIDs of this node begin from now on."""
        self._here = here
        for remotes in self._tables.values():
            remotes.locate(here)

    def announce(self, attachment: Attachment) -> None:
        """The attachment's networks are here: no route leads elsewhere."""
        networks = [packed(network) for network in attachment.announces]
        self.ensure(attachment.vpc).announce(networks, attachment.path_id)

    def withdraw(self, attachment: Attachment) -> None:
        """The attachment's networks are not here any more."""
        networks = [packed(network) for network in attachment.announces]
        self._tables[attachment.vpc].withdraw(networks, attachment.path_id)

    def set_peers(self, vpc: int) -> bool:
        """The VPC's attachments here have other peers now: those of any of them count. Whether that is a change."""
        networks: dict[int, dict[PackedNetwork, None]] = {}
        for attachment in self._attachments.of_vpc(vpc):
            for peer in attachment.peers:
                networks.setdefault(peer.vpc, {}).update(dict.fromkeys(map(packed, peer.networks)))
        remotes = self._tables.get(vpc)
        return remotes is not None and remotes.set_peers({peer: tuple(one) for peer, one in networks.items()})

    def peers(self, vpc: int) -> Mapping[int, Ranges]:
        """The VPCs that routes of a VPC may lead to, and their networks."""
        remotes = self._tables.get(vpc)
        return remotes.peers if remotes else {}

    def holds(self, attachment: Attachment, network: Network) -> bool:
        """Whether a network that the attachment announces is its own here."""
        remotes = self._tables.get(attachment.vpc)
        lost = remotes.lost(packed(network)) if remotes else frozenset()
        return self._attachments.holder(attachment.vpc, network, lost) == attachment.key

    def judge(self, vpc: int) -> set[Key]:
        """The attachments here that have lost or won a network since the last call, see ``RemoteRoutes.judge``."""
        remotes = self._tables.get(vpc)
        networks = map(unpacked, remotes.judge() if remotes else ())
        return {key for network in networks for key in self._attachments.announcers(vpc, network)}

    def set_table(
        self,
        vpc: int,
        source: Source,
        revision: int,
        routes: Mapping[PackedNetwork, Entry],
        before: Mapping[PackedNetwork, Entry | None] | None = None,
    ) -> bool:
        """Whether the table counts, see ``RemoteRoutes.set_table``: it does while the VPC is hosted here.

        A table that arrives after the VPC's last attachment has gone is ignored. But another pod may be attached before
        a round has written that: until then a source's table goes on being kept up to date.
        """
        remotes = self._tables.get(vpc)
        if remotes is None or not (self._attachments.hosts(vpc) or remotes.view(source)):
            return False
        remotes.set_table(source, revision, routes, before)
        return True

    def view(self, vpc: int, source: Source) -> View | None:
        """The table of a hosted VPC as that source has it."""
        remotes = self._tables.get(vpc)
        return remotes.view(source) if remotes else None

    def complete(self, vpc: int) -> bool:
        """Whether a source has the whole table of the VPC."""
        remotes = self._tables.get(vpc)
        return bool(remotes and remotes.complete)

    def epochs(self, attachment: Attachment) -> list[int]:
        """The epochs with which other nodes have the attachment, by all views."""
        remotes = self._tables.get(attachment.vpc)
        return remotes.epochs(attachment.function) if remotes else []

    def clear_unhosted(self, vpcs: Iterable[int]) -> None:
        """Of those of the VPCs that are not hosted any more no route is desired."""
        for vpc in vpcs:
            if vpc in self._tables and not self._attachments.hosts(vpc):
                self._tables[vpc].clear()

    def discard_unhosted(self, vpcs: Iterable[int]) -> None:
        """No route of those of the VPCs that are not hosted is in the kernel any more."""
        for vpc in vpcs:
            if not self._attachments.hosts(vpc):
                self._tables.pop(vpc, None)
