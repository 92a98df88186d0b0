"""The API server: objects in, status and Events out.

``reflectors``: the watches. ``attachments``, ``segments``, ``peers``: their objects, and what follows from them for
the store;
``objects``: objects as models; ``record``: the part of a VPCAttachment that is kept. ``reports``: status and
Events after a commit. ``status_writer``: endpoint and condition ``Conflict`` of a VPCAttachment. ``attachment_events``,
``router_events``: Events on VPCAttachments, and about what the router itself lacks. ``departed``: messages of removed
nodes are cleared.
"""
