"""The kinds as pydantic models: the source of ``crds/*.yaml``, of validation and of the docs' field lists.

``vpc``, ``vpcattachment``, ``vpcgateway`` and ``nodesegment`` are the kinds; ``model`` has their shared parts,
``rules`` the CEL rules, and ``schema`` writes the CustomResourceDefinitions.
"""
