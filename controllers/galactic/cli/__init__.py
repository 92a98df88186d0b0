"""The ``galactic`` command, also ``kubectl galactic``.

``main`` names the sub-commands, ``extensions`` those of other distributions; ``completion`` completes them. One module
a sub-command: ``status``, ``vpcs``, ``routes``, ``trace``, ``top``, ``flows``, ``usage``, ``history``,
``connectivity``, ``sysdump``, ``graph``.

``cluster_options`` and ``render`` are common to all: how a command reaches a cluster, and its output. ``snapshot`` has
Galactic's API objects, ``cluster_access`` reads programs, logs and kernels. ``findings`` are the problems that
``status`` prints. ``desired`` compares routes. ``walk`` follows a packet hop by hop (``hop``): ``underlay_hops`` are
between nodes, ``way_out`` is beyond a VPC's default route. ``observed`` judges counters and echo requests; ``rules``
are those of policies, ``smaller_links`` those that a node names. ``connectivity_plan`` is the connectivity test as a
value, ``probe`` runs in its pods. ``redaction`` removes secrets.
"""
