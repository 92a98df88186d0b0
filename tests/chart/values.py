"""Values of the chart: the schema's leaves, and random values that the schema allows."""

import json
import re
from collections.abc import Iterator
from functools import cache
from ipaddress import IPv6Network, ip_network
from pathlib import Path
from random import Random
from re import _constants as kinds  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

CHART = Path(__file__).resolve().parents[2] / "charts/galactic"
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
TEXTS = (
    "",
    "plain",
    "with spaces ",
    "ä€漢字",
    "'\"\\",
    "{{ .Values }}",
    "true",
    "12",
    "a: b #",
    "-",
    "|",
    "$(NODE_NAME)",
)
TRIES = 200
PRINTABLE = [chr(code) for code in range(33, 127)]


def leaves(schema: dict[str, Any] = SCHEMA, path: tuple[str, ...] = ()) -> Iterator[str]:
    """The dotted path of every value that is not itself a group of values."""
    properties = schema.get("properties")
    if not properties:
        yield ".".join(path)
    for name, below in (properties or {}).items():
        if name != "global":
            yield from leaves(below, (*path, name))


def drawn(random: Random, schema: dict[str, Any]) -> Any:  # noqa: C901, PLR0911 - a case a keyword
    """A random value for one schema, conditions (if, then) aside."""
    if "$ref" in schema:
        return drawn(random, SCHEMA["definitions"][schema["$ref"].rsplit("/", 1)[1]])
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return random.choice(schema["enum"])
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return drawn(random, random.choice(schema[choice]))
    if "type" not in schema:
        return drawn(random, schema["allOf"][0])
    match schema["type"]:
        case "boolean":
            return random.random() < 0.5
        case "integer" | "number":
            return random.randint(schema["minimum"], int(schema.get("maximum", 1 << 20)))
        case "string":
            return text(random, schema)
        case "array":
            count = random.randint(schema.get("minItems", 0), 2)
            found = [drawn(random, schema["items"]) for _ in range(count)]
            return found[:1] if schema.get("uniqueItems") and found[:1] == found[1:] else found
    if "properties" not in schema:
        keys = [text(random, schema["propertyNames"]) for _ in range(random.randint(0, 2))]
        return {key: drawn(random, schema["additionalProperties"]) for key in keys}
    required = set(schema.get("required", ()))
    return {
        name: drawn(random, below)
        for name, below in schema["properties"].items()
        if name in required or (name != "global" and random.random() < 0.4)
    }


def text(random: Random, schema: dict[str, Any]) -> str:
    """A string of the pattern, not longer than it may be."""
    if "pattern" not in schema:
        return random.choice(TEXTS)
    tree = _parsed(schema["pattern"])
    while True:
        found = _matching(random, tree)
        if len(found) <= schema.get("maxLength", 1000) and re.search(schema["pattern"], found):
            return found


@cache
def _parsed(pattern: str) -> Any:
    return parser.parse(pattern)


@cache
def _accepted(members: str) -> list[str]:
    """The characters of a class."""
    accepted = re.compile(members)
    return [character for character in PRINTABLE if accepted.fullmatch(character)]


def _matching(random: Random, tree: Any) -> str:
    result = ""
    for kind, value in tree:
        match kind:
            case kinds.LITERAL:
                result += chr(value)
            case kinds.NOT_LITERAL | kinds.ANY:
                result += random.choice(
                    [character for character in PRINTABLE if kind is kinds.ANY or character != chr(value)]
                )
            case kinds.IN:
                result += random.choice(_accepted(_source(value)))
            case kinds.BRANCH:
                result += _matching(random, random.choice(value[1]))
            case kinds.SUBPATTERN:
                result += _matching(random, value[3])
            case kinds.MAX_REPEAT:
                least, most, below = value
                for _ in range(random.randint(least, min(most, least + 3))):
                    result += _matching(random, below)
    return result


def _source(members: Any) -> str:
    """The character class again, from what the parser made of it."""
    inside = ""
    for kind, value in members:
        match kind:
            case kinds.NEGATE:
                inside = "^" + inside
            case kinds.LITERAL:
                inside += re.escape(chr(value))
            case kinds.RANGE:
                inside += f"{re.escape(chr(value[0]))}-{re.escape(chr(value[1]))}"
            case kinds.CATEGORY:
                inside += {kinds.CATEGORY_SPACE: r"\s", kinds.CATEGORY_NOT_SPACE: r"\S"}[value]
    return f"[{inside}]"


def inside(random: Random, space: IPv6Network, longest: int) -> IPv6Network:
    """A network in another, its own length at random."""
    length = random.randint(max(48, space.prefixlen), longest)
    number = random.getrandbits(length - space.prefixlen) if length > space.prefixlen else 0
    return IPv6Network((int(space.network_address) | number << (128 - length), length))


def networks(random: Random, values: dict[str, Any]) -> None:
    """The SRv6 space, and what lies in it, instead of what was drawn: those without a relation to each other."""
    text = lambda network: random.choice((str(network), network.exploded))  # noqa: E731
    space = IPv6Network("2001:db8:ff00::/40")
    if "srv6Space" in values:
        length = random.randint(1, 52)
        space = IPv6Network((random.getrandbits(length) << (128 - length), length))
        values["srv6Space"] = text(space)
    taken: list[IPv6Network] = []
    for node in list(values.get("segments", {})):
        drawn_ones = (inside(random, space, 64) for _ in range(TRIES))
        free = (
            candidate for candidate in drawn_ones if not any(candidate.overlaps(other) for other in taken)
        )
        if prefix := next(free, None):
            taken.append(prefix)
            values["segments"][node] = text(prefix)
        else:  # those before it have the whole space
            del values["segments"][node]
    if values.get("pool", {}).get("prefix"):
        pool = inside(random, space, values["pool"].get("length", max(56, space.prefixlen)))
        values["pool"]["prefix"] = text(pool)


def nodes_at_the_broker(mqtt: dict[str, Any], url: str) -> None:
    """A listener of their own with TLS where the routers' has it, and one credential."""
    node, encrypted = mqtt.get("node", {}), ("mqtts://", "wss://")
    if not node.get("url", "").startswith(encrypted):
        node.pop("url", None)
    if not url.startswith(encrypted):
        node.pop("issueCertificates", None)
        mqtt.get("operator", {}).pop("certificateSecret", None)
    if node.get("issueCertificates"):
        mqtt["node"] = {key: node[key] for key in ("url", "issueCertificates") if key in node}


def secure_metrics(metrics: dict[str, Any]) -> None:
    """A name with the certificate that has it, and a token for the PodMonitor."""
    secure = metrics.get("secure", {})
    if not secure.get("certificateSecret"):
        secure.pop("serverName", None)
    if secure.get("enabled") and metrics.get("podMonitor", {}).get("enabled"):
        secure.setdefault("tokenSecret", {})["name"] = "a-token"


def values(random: Random) -> dict[str, Any]:  # noqa: C901, PLR0912, PLR0915 - a case a condition of the schema
    """Random values by the schema: drawn without regard to its conditions, then changed to meet them."""
    result: dict[str, Any] = drawn(random, SCHEMA)
    mqtt, certificate = (
        result.setdefault("mqtt", {}),
        result.setdefault("webhook", {}).setdefault("certificate", {}),
    )
    url = mqtt.get("url", "")
    if not url:
        result["mqtt"] = {key: value for key, value in mqtt.items() if key == "base"}
        result.get("broker", {})["enabled"] = True
    nodes_at_the_broker(mqtt, url)
    for role in ("node", "router"):
        client = mqtt.get(role, {})
        if not url.startswith(("mqtts://", "wss://")):
            client.pop("certificateHostPath", None)
            client.pop("certificateSecret", None)
        if client.get("passwordSecret", {}).get("name") and not client.get("username"):
            client["username"] = "someone"
    if not url.startswith(("mqtts://", "wss://")):
        mqtt.pop("caSecret", None)
    if certificate.get("mode") == "secret":
        certificate["secretName"] = certificate.get("secretName") or "a-secret"
    else:
        certificate.pop("secretName", None)
    if certificate.get("mode") != "cert-manager":
        certificate.get("issuer", {}).pop("name", None)
    if not url and result.get("router", {}).get("replicas") == 0:
        result["router"]["replicas"] = 1
    taint = result.get("operator", {}).get("nodeTaint", {})
    if taint.get("set"):
        taint["remove"] = True
    if not result.get("database", {}).get("existingSecret"):
        result.get("database", {}).pop("retentionDays", None)
        result.get("database", {}).pop("usageDays", None)
        result.get("database", {}).pop("caSecret", None)
    policies = result.get("networkPolicies", {})
    if not policies.get("enabled", True):
        policies.pop("metricsFrom", None)
    for peer in policies.get("metricsFrom", ()):
        if block := peer.get("ipBlock"):
            block["cidr"] = str(ip_network(block["cidr"], strict=False))
    networks(random, result)
    secure_metrics(result.get("metrics", {}))
    if result["webhook"].get("port", 9443) == result.get("metrics", {}).get("port", 9090):
        result["webhook"]["port"] = 9443
        result["metrics"]["port"] = 9090
    client = result["webhook"].get("clientCertificate", {})
    if not client.get("caConfigMap"):
        client.pop("names", None)
    for component in ("operator", "webhook", "router", "node", "broker"):
        given = result.get(component, {})
        context = given.get("containerSecurityContext", {})
        if context.get("runAsUser") == 0 or (context.get("runAsNonRoot") and component == "node"):
            context["runAsUser"] = 1
        requests = given.get("resources", {}).get("requests", {})
        defaults = ("cpu", "memory")  # the chart's defaults
        for limit in (*requests, *defaults):
            given.get("resources", {}).get("limits", {}).pop(limit, None)
    _ = result["webhook"].get("hostNetwork") and result.pop("openshift", None)
    return result
