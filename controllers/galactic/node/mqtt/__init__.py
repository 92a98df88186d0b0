"""The broker: what this node publishes, and the route tables that it follows.

``session``: publishes this node's registration, and dispatches what arrives. ``registration``: the registration, cut
into messages. ``subscriptions``: the tables of the VPCs
hosted here. ``usage``: the traffic of attachments, published.
``replica``: one VPC's table, from a log of changes and a packed, retained snapshot.
"""
