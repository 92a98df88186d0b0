"""The node controller: attached pods and route tables in, this node's kernel out.

cni          the kubelet's calls over the unix socket                ┐
mqtt         route tables of the VPCs hosted here                    ├─► state ─► dataplane ─► kernel
kubernetes   prefix, attachments of this node's pods, fallback tables  ┘     │
                                                                           └─► mqtt (registration), kubernetes (status)

``policies``: the kernel's table that enforces VPCPolicies. ``status``: the node's state as others see it. ``metrics``
counts, ``traffic_metrics`` has the series of attachments and VPCs, ``__main__`` wires. Programs of their own:
``prepare`` makes a host ready (galactic-node-prepare), ``inspection`` prints the kernel's state
(galactic-node-inspect), ``clean`` takes everything off a host again (galactic-node-clean).
"""
