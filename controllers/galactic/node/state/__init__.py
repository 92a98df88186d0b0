"""What is desired on this node, and its durable records.

``attachment``: one attachment as a value. ``store``: what is attached here, and what the VPCs hosted here reach
elsewhere; ``remote`` is the latter for one VPC. ``checkpoint``: the records on disk. ``epoch``: the hybrid logical
clock that epochs and sequences are taken from.
"""
