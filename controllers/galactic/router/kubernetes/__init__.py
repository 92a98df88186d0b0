"""The API server: objects in, status and Events out.

``reflectors``: VPCs, VPCAttachments and NodeSegments, put into the store. ``status_writer``: the endpoint and the
condition ``Conflict`` of a VPCAttachment. ``attachment_events``, ``router_events``: Events on VPCAttachments, and
about what the router itself lacks.
"""
