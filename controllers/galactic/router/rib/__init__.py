"""The routing information base: one table per VPC, as a pure function of paths and policy.

``path``: an endpoint of a registration, checked, or rejected with a reason; ``attachments``: what it is checked
against. ``import_policy``: which clusters may be in which VPC. ``networks``: networks as canonical text.
``prefix_owners``: which node owns which SRv6 prefix, standalone. ``table``: the pure function. ``vpc_rib``: one VPC's
table, kept up to date; ``vpc_tables``: those of all VPCs. ``peerings``: which VPCs are peered, in which clusters;
``imports``: peers' routes in a VPC's table. ``registrations``: what nodes register, and its paths;
``endpoint_shards``: large ones, put together again. ``store``: both, and commits.
"""
