"""The router: registrations in, one route table per VPC out, published over MQTT and recorded in Kubernetes.

claims ─► table        pure: what a node may claim, who wins, who holds a network
   └────► store        both writers' registrations; keeps the tables, one change at a time
shards ─► ledger       pure: what a VPC's subscribers were told, and what they are to be told next
retained, inbox        what arrives over MQTT, and what the broker keeps of ours
fanout                 publishes, confirmed, for as long as it takes
watching, recorder     the Kubernetes half: objects in, VPCAttachment.status.endpoint and Events out
controller             starts all of it, and decides when the view is complete enough to act on
"""
