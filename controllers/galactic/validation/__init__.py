"""Checks of the operator and the webhook, without the Kubernetes API and without asyncio.

``networks``: the networks of a VPC. ``attachment``: addresses, interface name, terminations and routes of an
attachment. ``grants``: whether a namespace may attach to a VPC. ``services``: Services that publish its addresses.
``gateways``: VPCGateways, their addresses and families. ``policies``: rules inside a VPC.
Each raises ``galactic.errors.Rejected`` with field and remedy. ``holders``: how a refusal names the holder of an
address. ``joining``: the permission to request an identifier. ``accepting``: which of a VPC's networks an attachment
accepts. ``references``: the VPC that another kind names. ``multus``: the networks in Multus' annotation of a Pod.
``peering``: which VPCs are peered; the router asks it too.
"""
