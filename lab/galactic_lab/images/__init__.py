"""Container images that are built on this machine, and the containerd root that has them.

``store`` is buildah with layers kept in the cache; ``mirrors`` is how this machine reaches Debian and PyPI, lent to
what runs while an image is built; ``chart`` is the root that nodes of a lab with the chart start from.
"""
