"""The CNI plugin, a pipe to the node controller's unix socket (docs/cni.md). Standard library only.

``main``: one CNI call, with a little of the standard library. ``bundle``: the plugin with an interpreter of its own.
``install``: puts the bundle onto a node.
"""
