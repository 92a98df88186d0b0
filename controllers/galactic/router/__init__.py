"""The router, a route reflector: registrations in, one route table per VPC out, over MQTT and into Kubernetes.

ingress      what arrives over MQTT                         ┐
kubernetes   objects in; status and Events out              ├─► rib ─► egress ─► MQTT
database     endpoints and history in PostgreSQL, if any    ┘
leader       which of several routers leads

``controller`` starts the parts and decides when the RIB is complete enough to act on; ``metrics`` counts;
``log_throttle`` limits repeated log lines; ``__main__`` wires. A program of its own: ``inspection`` prints what routers
have published (galactic-router-inspect).
"""
