"""The CNI plugin's side: requests from the kubelet over a unix socket.

``protocol``: requests and errors (CNI 0.3.1 to 1.1.0). ``calls``: the verbs. ``results``: the result that ADD returns
and CHECK compares. ``server``: the socket, and the DELs that the plugin left on disk while the node controller was
away.
"""
