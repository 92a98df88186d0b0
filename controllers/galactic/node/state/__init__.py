"""The desired state of this node, and its durable records.

``store``: the one place where the desired state is changed. Its parts: ``attachments``, those on this node;
``attachment``, one of them as a value; ``tables``, the remote routes of the VPCs hosted here, and ``remote``, those of
one VPC; ``node``, what the node remembers of itself; ``endpoints``, what it registers; ``dirty``, what is not in the
kernel yet. ``tracker``: desired and actual values as their difference. ``checkpoint``: the records on disk. ``epoch``:
the hybrid logical clock of epochs and sequences. ``condition``: a condition as a value.
``usage``: traffic of attachments, as sums. ``gateways``: VPCGateways as values, and which of their exits answer.
"""
