"""The webhook: the admission server that allows, refuses or warns of users' writes.

It has no state but caches: any number of replicas answer alike. ``review`` is the API server's request and answer.
``pod``, ``service``, ``vpc``, ``vpcattachment`` and ``nodesegment`` decide without I/O; ``annotations`` warns of
unknown ones, ``metadata`` bounds their size.
``cluster`` caches the objects that they need, of an attachment its ``record``, and ``holders`` of their networks.
``joins`` asks whether a user may join a VPC by its identifier, ``dispatch`` calls the one for a request, ``server``
listens, ``inflight`` bounds what it answers at a time, ``metrics`` counts. ``registration`` keeps the certificate, and
its CAs in the webhook configurations (``configuration``).
"""
