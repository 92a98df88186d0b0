"""The kubelet's hook: a pipe to the node controller's unix socket (docs/architecture.md, "The kubelet hook").

Standard library only, and little of that: every pod start and stop pays for what is imported here.
"""
