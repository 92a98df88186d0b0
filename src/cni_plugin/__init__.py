"""The kubelet's hook: a pipe to the node controller's unix socket; how it is bundled with an interpreter of its own,
and how it gets onto a node (docs/cni.md). Standard library only, and in the hook itself little of that.
"""
