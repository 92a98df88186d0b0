"""Messages that arrive over MQTT, on their way to the RIB.

``inbox``: the dispatch of every message. ``node_messages``: messages of nodes, decoded in turns. ``fair_queue``: each
node's share of these turns. ``decoder``: registrations, decoded and put into the store. ``subscriptions``: which topics
of nodes are subscribed, and when retained registrations are requested. ``damping``: nodes that flood are suppressed for
a while. ``barrier``: when the broker has sent all that it retains (end-of-RIB). ``snapshot_reader``: the routers' own
topics, read once a session. ``liveness``: nodes that are offline. ``dropped_messages``: messages that are dropped.
``entitlements``: the lists of attachments that clusters publish, standalone.
``rejection_log``: the log of rejected paths. ``admissions``: the file with a standalone router's import policy.
"""
