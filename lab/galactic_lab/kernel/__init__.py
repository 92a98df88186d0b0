"""The kernel that the nodes of a lab run on, its networks, and commands inside it.

``kernel``: the protocol, of which ``kernels`` chooses one: ``uml`` (a guest of the lab's own), ``joined`` (another
lab's guest), ``nodeless`` (none). ``guest``, ``processor``: start a guest on one processor. ``agent``, ``remote``:
commands in a guest, both ends of the wire. ``fabric``: network namespaces and links. ``namespaces``: system calls.
``leftovers``: processes that a lab left behind.
"""
