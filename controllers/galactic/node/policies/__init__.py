"""Rules inside VPCs, enforced at the host ends of attachments that a policy selects (docs/design/policies.md).

rules         PolicySlices as values
classes       addresses and ports that rules treat alike: pure
ruleset       the table of nftables: pure
enforcement   the task that keeps the kernel's table so; an ADD waits for it
slices        the PolicySlices of this node's VPCs, followed at the API server
"""
