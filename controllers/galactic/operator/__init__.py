"""The operator: identifiers, addresses, NetworkAttachmentDefinitions, NodeSegments.

Layers, top to bottom: ``__main__`` wires. ``handlers`` (kopf) and ``reflectors`` fill ``state.Caches``: a
``cache`` a kind, of its ``objects`` as values, or their parts in ``record``; and ``attachment_counts``. ``triggers``
marks dirty what a change concerns;
``reconcile`` runs the queue through ``vpcs``, ``attachments`` (by ``admission``), ``segments``, ``pods``,
``services``, ``policies`` and ``gateways``, which share ``context``;
``cluster_networks``: where no gateway leads; ``prefixes`` finds free and overlapping
prefixes; ``dropped_fields`` notices fields that the API server drops. ``attached``, ``ending``, ``route_reporting`` and
``evictions`` watch over pods; ``stand_in`` records endpoints while no router leads; ``peering``: the peers of VPCs;
``events`` writes Events; ``entitlements`` publishes the attachments (``entitlement_list``) for routers outside, for
one cluster under each ``cluster_name``;
``departed`` clears what the broker retains of removed nodes; ``issuer`` issues nodes' certificates at the broker;
``gauges`` and ``metrics`` count. ``allocator`` keeps identifiers and addresses. Its parts ``identifiers`` and
``addresses``, ``nad``, ``carriers``, ``statefulsets``, ``gateway_nodes``, ``published``, ``backends``, ``slices``, and
``galactic.validation`` know neither the Kubernetes API nor asyncio.

``broker`` and ``retire`` are programs of their own: the chart's broker credentials, and the work before an uninstall.
"""
