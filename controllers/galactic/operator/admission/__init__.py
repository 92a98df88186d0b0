"""The admission webhooks: a server of its own that says yes, no or "but" to what users write.

It holds no state that matters: any number of replicas answer alike. ``review`` is what the API server sends and gets,
``pod``, ``vpc``, ``vpcattachment`` and ``nodesegment`` decide without I/O, ``cluster`` knows what is there, ``judge``
brings the two together, ``server`` listens, ``configuration`` and ``certificate`` are what makes the API server ask us.
"""
