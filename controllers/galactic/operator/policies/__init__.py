"""Rules inside VPCs, from VPCPolicies and VPCs to the objects that nodes read (docs/design/policies.md).

index        which attachments rules select, and which addresses groups have: pure
parts        the PolicySlices that rules and groups are to be: pure
changes      differences of the caches into the index
reconciler   the slices written, and the conditions of VPCPolicies
"""
