"""The node controller: what is attached on this node, in its kernel, and what it tells the rest of the world.

cni, server      the kubelet's calls over the unix socket             ┐
tables           a VPC's route table as MQTT tells it                 ├─► store ─► plan ─► sync ─► kernel
segment          this node's prefix, from its NodeSegment             ┘     │
                                                                            └─► registration (MQTT), segment (status)
"""
