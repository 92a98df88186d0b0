"""The broker: what this node publishes, and the route tables that it follows.

``session``: this node's registration, and the dispatch of what arrives. ``subscriptions``: the tables of the VPCs
hosted here. ``replica``: one VPC's table, from a log of changes and a packed, retained snapshot.
"""
