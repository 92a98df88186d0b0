"""The kinds as pydantic models: the source of ``crds/*.yaml``, of validation and of the docs' field lists.

``vpc``, ``vpcattachment``, ``vpcpolicy``, ``vpcgateway`` and ``nodesegment`` are the kinds, and ``policyslice``, from
the operator to the nodes; ``model`` has their shared parts, ``policy_rules`` those of policies, ``cel`` the CEL rules,
and ``schema`` writes the CustomResourceDefinitions.
"""
