"""The endpoints of this node: its attachments as the router needs them."""

from ipaddress import IPv6Network

from galactic import names, srv6
from galactic.messages import Endpoint
from galactic.node.state.attachment import Attachment, Key
from galactic.node.state.attachments import LocalAttachments


class Endpoints:
    """Each endpoint is made once: a registration among 1,000 attachments costs what changed."""

    def __init__(self, attachments: LocalAttachments) -> None:
        self._attachments = attachments
        self._made: dict[Key, Endpoint] = {}

    def discard(self, key: Key) -> None:
        """The attachment changed."""
        self._made.pop(key, None)

    def clear(self) -> None:
        """The node's prefix changed."""
        self._made.clear()

    def all(self, prefix: IPv6Network) -> tuple[Endpoint, ...]:
        """Of all attachments, in the order of their keys."""
        for key in self._attachments.keys() - self._made.keys():
            self._made[key] = endpoint(prefix, self._attachments[key])
        return tuple(self._made[key] for key in sorted(self._attachments))


def endpoint(prefix: IPv6Network, attachment: Attachment) -> Endpoint:
    """The endpoint of an attachment on a node with that prefix."""
    return Endpoint(
        vpc=names.vpc_hex(attachment.vpc),
        function=names.function_hex(attachment.function),
        attachment=attachment.name,
        sid=str(srv6.sid(prefix, attachment.vpc, attachment.function)),
        networks=tuple(map(str, attachment.announces)),
        epoch=attachment.epoch,
    )
