"""The API server: what this node reads of it, and its own NodeSegment.

``segment``: the node's prefix in, endpoints and conditions out. ``carried``: the VPCAttachments that the node's pods
carry; each ADD needs one, and their changes reach running pods. ``entitlement``: one of them, parsed. ``fallback``
and ``fallback_table``: the tables while MQTT is silent. ``unaccounted``: attachments in the kernel whose records are
lost. ``gateways``: the cluster's VPCGateways. ``multus``: whether Multus is configured on this node.
``broker_certificate``: the node's client certificate at the broker. ``tasks``: runs these once there is a client.
"""
