"""The routing information base: one table per VPC, as a pure function of paths and policy.

``path``: an endpoint of a registration, checked, or rejected with a reason. ``import_policy``: which clusters may be
in which VPC. ``networks``: networks as canonical text. ``prefixes``: which node has which SRv6 prefix, standalone.
``table``: the pure function. ``vpc``: one VPC's table, kept up to date. ``store``: registrations and objects by
writer, and the tables that follow from them.
"""
