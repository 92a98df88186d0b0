"""Status and Events of VPCAttachments, which a leading router writes after each commit."""

from galactic.router.ingress.rejection_log import conflict_rejections
from galactic.router.kubernetes.attachment_events import AttachmentEvents
from galactic.router.kubernetes.attachments import AttachmentIndex
from galactic.router.kubernetes.status_writer import StatusWriter
from galactic.router.rib.store import Store
from galactic.router.rib.vpc_tables import Commit


class KubernetesReports:
    """Passes each commit to the writers of status and of Events."""

    def __init__(
        self, store: Store, attachments: AttachmentIndex, status: StatusWriter, events: AttachmentEvents
    ) -> None:
        self._store, self._attachments, self._status, self._events = store, attachments, status, events

    def lead(self, term: int) -> None:  # noqa: ARG002 - Kubernetes orders no terms
        """From now on this router writes."""
        self._events.enqueue(self._store.rejections())
        self._status.lead(self._attachments.names())

    def resign(self) -> None:
        """Another router writes from now on."""
        self._status.resign()
        self._events.resign()

    def committed(self, commit: Commit) -> None:
        """The tables changed."""
        names = (self._attachments.name(identity) for identity in commit.touched)
        self._status.enqueue(name for name in names if name)
        self._events.enqueue((*commit.rejections, *conflict_rejections(self._store, commit.touched)))
