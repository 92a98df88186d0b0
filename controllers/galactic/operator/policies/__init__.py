"""Rules inside VPCs, from VPCPolicies and VPCs to the objects that nodes read (docs/design/policies.md).

index        which attachments rules select, and which addresses groups have: pure
policyslices the PolicySlices that rules and groups become: pure
changes      differences of the caches into the index
reconciler   the slices written, and the conditions of VPCPolicies
"""
