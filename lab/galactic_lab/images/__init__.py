"""Container images that are built on this machine, and the containerd roots that have them.

``base``: the images of every node. ``store``: buildah, with layers kept in the cache. ``mirrors``: how this machine
reaches Debian and PyPI, for image builds, by way of ``pip_settings``. ``chart``: the root that nodes of a lab with the
chart start from.
"""
