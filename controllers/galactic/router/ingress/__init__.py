"""What arrives over MQTT, up to the RIB.

``subscriptions``: which topics of nodes are followed, and when a node is asked for its retained registration.
``inbox``: the dispatch of every message. ``decoder``: registrations, decoded and put into the store. ``barrier``:
when the broker has sent all that it retains (end-of-RIB). ``snapshot_reader``: the router's own retained topics, read
once a session. ``damping``: nodes that flood are suppressed for a while. ``fair_queue``: each node's share of the
router. ``liveness``: nodes that are silent. ``rejections``: the log of rejected paths.
"""
