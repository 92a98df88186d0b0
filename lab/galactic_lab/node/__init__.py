"""The nodes of a lab: their machines, containerd, kubelet, and Multus.

``nodes``: the program that runs all of them. ``supervision``: keeps a node's programs running. ``node``: one node, made
of ``machine`` (namespaces, a cgroup, folders of its own), ``containerd``, ``kubelet`` and ``proxy`` (kube-proxy).
``networks``: the configurations of its networks. ``multus``: the stand-in for Multus, with ``multus_shim`` (the plugin
that asks it), ``selections`` (the Pod's annotation) and ``libcni``; ``real_multus``: a Multus from a given folder.
``plugins``: the folder of CNI plugins.
``sandboxes``: network namespaces of running pods.
"""
