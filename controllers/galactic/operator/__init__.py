"""The operator: identifiers, addresses, NetworkAttachmentDefinitions, NodeSegments.

Floors, top to bottom: ``__main__`` wires; ``handlers`` turns kopf's events into entries of ``state.Caches``;
``reconcile`` runs what is dirty through ``vpcs``, ``attachments`` and ``segments``; these are made of pure modules
(``identifiers``, ``addresses``, ``nad``, and those of ``galactic.validation``) that know neither the Kubernetes API nor
asyncio.
"""
