"""The tables that the router publishes.

``adj_rib_out``: the routes that a VPC's subscribers were sent, and pending changes. ``shards``: a table cut into
retained messages. ``fanout``: publishes pending changes, by way of ``publisher``, which waits for the broker's
confirmation. ``revisions``: numbers of tables and terms. ``retained``: the router's own topics as the broker retains
them. ``change_log``: changes since then, as a standby receives them. ``foreign``: other writers on these topics, whose
messages are overwritten.
"""
