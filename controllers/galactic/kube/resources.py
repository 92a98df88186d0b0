"""The kinds that Galactic reads and writes, and their request paths."""

from dataclasses import dataclass

from galactic.names import GROUP, VERSION


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of object. ``group`` is empty for the core group.

    ``partial``: only the objects' metadata is requested (``PartialObjectMetadata``). ``page``: objects in one part of a
    list, which is decoded in one turn.
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    partial: bool = False
    page: int = 200

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(
        self, namespace: str | None = None, name: str | None = None, subresource: str | None = None
    ) -> str:
        """The request path of a collection, an object or its subresource."""
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts += [part for part in (self.plural, name, subresource) if part]
        return "/" + "/".join(parts)


VPCS = Resource(GROUP, VERSION, "vpcs", "VPC")
VPC_ATTACHMENTS = Resource(GROUP, VERSION, "vpcattachments", "VPCAttachment")
VPC_GATEWAYS = Resource(GROUP, VERSION, "vpcgateways", "VPCGateway")
NODE_SEGMENTS = Resource(GROUP, VERSION, "nodesegments", "NodeSegment", namespaced=False, page=10)
"""A NodeSegment lists its node's endpoints, of some 450 bytes each."""
VPC_POLICIES = Resource(GROUP, VERSION, "vpcpolicies", "VPCPolicy")
POLICY_SLICES = Resource(GROUP, VERSION, "policyslices", "PolicySlice", namespaced=False)
NADS = Resource("k8s.cni.cncf.io", "v1", "network-attachment-definitions", "NetworkAttachmentDefinition")
NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
NODES_METADATA = Resource("", "v1", "nodes", "Node", namespaced=False, partial=True)
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
PODS = Resource("", "v1", "pods", "Pod")
EVENTS = Resource("", "v1", "events", "Event")
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment")
DAEMON_SETS = Resource("apps", "v1", "daemonsets", "DaemonSet")
STATEFUL_SETS = Resource("apps", "v1", "statefulsets", "StatefulSet")
SERVICES = Resource("", "v1", "services", "Service")
ENDPOINT_SLICES = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
SERVICE_CIDRS = Resource("networking.k8s.io", "v1", "servicecidrs", "ServiceCIDR", namespaced=False)
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
SECRETS = Resource("", "v1", "secrets", "Secret")
ACCESS_REVIEWS = Resource(
    "authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", namespaced=False
)
TOKEN_REVIEWS = Resource("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", namespaced=False)
CERTIFICATE_REQUESTS = Resource(
    "certificates.k8s.io",
    "v1",
    "certificatesigningrequests",
    "CertificateSigningRequest",
    namespaced=False,
)
MUTATING_WEBHOOKS = Resource(
    "admissionregistration.k8s.io",
    "v1",
    "mutatingwebhookconfigurations",
    "MutatingWebhookConfiguration",
    namespaced=False,
)
VALIDATING_WEBHOOKS = Resource(
    "admissionregistration.k8s.io",
    "v1",
    "validatingwebhookconfigurations",
    "ValidatingWebhookConfiguration",
    namespaced=False,
)
