"""The Kubernetes API. Only this package makes requests to it.

``api`` is the protocol of all requests; ``client`` makes them by the ``official`` one, ``memory`` answers them in
tests, ``fenced`` allows writes to the leader alone (``lease``). ``reflector`` lists and watches, ``informer`` keeps a
copy. ``workqueue`` orders what a controller has to do. ``conditions`` and ``events`` make the parts of objects that
people read; ``pods``, ``ordinals``, ``namespaces`` and ``resources`` know the kinds, ``cluster`` knows the cluster.
``certificates`` is the webhook's and the broker's PKI, ``client_certificates`` that of nodes at the broker.
``token_access`` decides by the API server who reads a controller's metrics. ``execution`` runs commands in containers.
"""
