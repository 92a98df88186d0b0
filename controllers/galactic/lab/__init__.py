"""The embedded lab: a Kubernetes cluster of a few nodes on one machine, without Docker or a hypervisor.

Real are the API server, etcd, controller manager, scheduler and MQTT broker, and the nodes' kernel. Nodes run
containerd and kubelet (``galactic.lab.runtime``), or a stand-in for both (``galactic.lab.kubelet``), which gives every
Pod a network namespace and calls real CNI plugins.
"""
