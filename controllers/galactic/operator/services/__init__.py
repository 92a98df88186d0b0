"""Services that publish the VPC addresses of their Pods, as EndpointSlices (docs/design/names.md).

``reconciler`` compares slices with the endpoints of the Pods; ``index`` knows which Services a change concerns;
``endpoints`` makes the endpoints of a Pod. ``operator.slices`` distributes them.
"""
