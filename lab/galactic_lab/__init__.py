"""The embedded lab: a Kubernetes cluster of a few nodes on one machine, without Docker or a hypervisor.

API server, etcd, controller manager, scheduler and MQTT broker run on the machine (``controlplane``). The nodes, with
containerd and kubelet (``node``), run in a User Mode Linux guest (``kernel``). Multus alone is a stand-in.

``cluster``: a lab as one object, with ``places`` (commands in it; objects by ``api_reader``, with the ``kubeconfig``)
and ``disturbances``. ``agreement``: settings asked for, against those of the lab that is up. ``state``: settings and
paths. ``processes``: supervisord, which keeps a lab's programs running. ``assets``, ``node_programs``: the programs of
one lab. ``provenance``: versions and origins of all that is used. ``cleanup``: removes a lab. ``builds``, ``images``:
what it runs, built once. ``commands``: ``galactic lab`` and ``galactic demo``.
"""
