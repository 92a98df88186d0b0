"""The embedded lab: a Kubernetes cluster of a few nodes on one machine, without containers or a hypervisor.

Real are the API server, etcd, controller manager, scheduler and MQTT broker, and the nodes' kernel. A stand-in for
kubelet and Multus (``galactic.lab.kubelet``) gives every Pod a network namespace and calls real CNI plugins.
"""
