"""The VPCAttachments that endpoints are checked against, and the nodes that have endpoints of theirs.

In Kubernetes there is one list, of the router's own cluster. Standalone each cluster publishes one
(docs/design/entitlements.md).
"""

from collections.abc import Iterable, Mapping

from galactic.messages import Endpoint
from galactic.router.rib.path import Attachment, NodeRef, SomeAttachments


class KnownAttachments:
    """By cluster and name (``namespace/name``); in Kubernetes by name alone."""

    def __init__(self, *, checked: bool, listed: bool) -> None:
        """``checked``: one list, of any cluster. Else: ``listed``, whether a cluster without a list has no attachments.

        Not listed: its endpoints are not checked against any.
        """
        self._own: dict[str, Attachment] | None = {} if checked else None
        self._unlisted: SomeAttachments | None = SomeAttachments() if listed else None
        self._clusters: dict[str, dict[str, Attachment]] = {}
        self._nodes: dict[tuple[str, str], set[NodeRef]] = {}  # that have an endpoint of that name

    @property
    def per_cluster(self) -> bool:
        """Whether each cluster has a list of its own."""
        return self._own is None

    def of(self, cluster: str) -> Mapping[str, Attachment] | None:
        """The attachments of a cluster; None: its endpoints are not checked against any."""
        return self._own if self._own is not None else self._clusters.get(cluster, self._unlisted)

    def get(self, name: str) -> Attachment | None:
        """The attachment of that name, in Kubernetes."""
        return self._own.get(name) if self._own is not None else None

    def put(self, name: str, attachment: Attachment | None) -> tuple[NodeRef, ...]:
        """An attachment as it is now, in Kubernetes; None: it is no more. The nodes to check again."""
        assert self._own is not None
        if self._own.get(name) == attachment:
            return ()
        _put(self._own, name, attachment)
        return tuple(self._nodes.get(self._key("", name), ()))

    def amend(
        self, cluster: str, changed: Mapping[str, Attachment | None], *, complete: bool
    ) -> tuple[bool, set[NodeRef]]:
        """Changes of the list of a cluster (None: no more); ``complete``: whether there was a whole list by now.

        Returns whether all of the cluster's nodes are to be checked again, and those that are.
        """
        before = self._clusters.get(cluster)
        now = {} if before is None else before
        if before is None or isinstance(before, SomeAttachments) == complete:
            now = self._clusters[cluster] = dict(now) if complete else SomeAttachments(now)
        nodes: set[NodeRef] = set()
        for name, attachment in changed.items():
            if now.get(name) != attachment:
                _put(now, name, attachment)
                nodes |= self._nodes.get((cluster, name), set())
        return now is not before, nodes

    def index(self, node: NodeRef, before: Iterable[Endpoint], now: Iterable[Endpoint]) -> None:
        """The endpoints of a node were others."""
        names, left = {endpoint.attachment for endpoint in now}, {endpoint.attachment for endpoint in before}
        for name in left - names:
            key = self._key(node.cluster, name)
            self._nodes[key].discard(node)
            if not self._nodes[key]:
                del self._nodes[key]
        for name in names:
            self._nodes.setdefault(self._key(node.cluster, name), set()).add(node)

    def _key(self, cluster: str, name: str) -> tuple[str, str]:
        return ("", name) if self._own is not None else (cluster, name)


def _put(attachments: dict[str, Attachment], name: str, attachment: Attachment | None) -> None:
    if attachment is None:
        attachments.pop(name, None)
    else:
        attachments[name] = attachment
