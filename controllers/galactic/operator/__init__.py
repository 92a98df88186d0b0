"""The operator: identifiers, validation, addresses, NetworkAttachmentDefinitions, NodeSegments.

Floors, top to bottom: ``__main__`` wires; ``handlers`` turns kopf's events into entries of ``state.View``;
``reconcile`` runs what is dirty through ``vpcs``, ``attachments`` and ``segments``; these are made of pure modules
(``networks``, ``plan``, ``grants``, ``identifiers``, ``addresses``, ``nad``, ``conditions``) that know neither the
Kubernetes API nor asyncio.
"""
