"""What a node of the lab is made of: its machine, containerd, kubelet, images, and Multus.

``machine``: namespaces, a cgroup and folders of its own. ``containerd``, ``kubelet``: their configurations and how they
are started. ``images``: the container images that every node has. ``multus``: the stand-in for Multus, a CNI plugin;
``real_multus``: a Multus that somebody gives. ``sandboxes``: the network namespaces of running pods.
"""
