"""The router, a route reflector: registrations in, one route table per VPC out, over MQTT and into Kubernetes.

ingress      what arrives over MQTT                         ┐
kubernetes   objects in; status and Events out              ├─► rib ─► egress ─► MQTT
database     endpoints and history in PostgreSQL, if any    ┘
leader       which of several routers leads, and what it starts from

``__main__`` makes every part. ``startup``: when the RIB is complete enough to act on. ``commits``: brings the tables up
to date. ``controller`` runs the parts; ``metrics`` counts; ``log_throttle`` limits repeated log lines. A program of its
own: ``inspection`` prints the tables of running routers (galactic-router-inspect).
"""
