"""The embedded lab: a Kubernetes cluster of a few nodes on one machine, without Docker or a hypervisor.

API server, etcd, controller manager, scheduler and MQTT broker run on the machine. The nodes, with containerd and
kubelet (``galactic_lab.runtime``), are in a User Mode Linux guest. Multus alone is a stand-in.
"""
