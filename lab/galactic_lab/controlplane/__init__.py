"""Programs beside the nodes: Kubernetes' servers, broker, database, Prometheus, DNS, Galactic's controllers or chart.

``servers``: etcd and Kubernetes. ``broker``: the lab's Mosquitto; ``mosquitto``, ``postgres``: also for tests alone.
``controllers``: operator, router, webhook. ``helm_release``: the chart instead. ``credentials``, ``rbac``: users and
roles. ``admission``: webhook configurations. ``forward``, ``ports``: ports of the machine. ``readiness``: what is up.
``dns``, ``prometheus``: on request.
"""
