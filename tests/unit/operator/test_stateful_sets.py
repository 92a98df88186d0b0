"""StatefulSets: each ordinal keeps its attachment and addresses, and a scale-down releases them after a time."""

import asyncio

import pytest
from clockwork import Clockwork
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from galactic.kube.conditions import stamp
from galactic.kube.ordinals import Ordinal, StatefulSet, ordinal, ordinal_attachment, parse_stateful_set
from galactic.kube.resources import EVENTS, PODS, STATEFUL_SETS, VPC_ATTACHMENTS, VPCS
from galactic.names import (
    ACCEPTED_ANNOTATION,
    ATTACHMENT_ANNOTATION,
    ATTACHMENT_LABEL,
    GENERATED,
    VPC_ANNOTATION,
)
from galactic.operator.context import FINALIZER, Rules

KEEP = 1000.0
APPS = "apps/v1"


def owned_by(name="db", uid="u1", **changes):
    reference = {"apiVersion": APPS, "kind": "StatefulSet", "name": name, "uid": uid, "controller": True}
    return reference | changes


@pytest.mark.parametrize(
    ("pod", "owners", "place"),
    [
        pytest.param("db-0", [owned_by()], Ordinal("db", "u1", 0), id="first"),
        pytest.param("a-1-12", [owned_by("a-1")], Ordinal("a-1", "u1", 12), id="hyphen-in-the-name"),
        pytest.param("db-0", [], None, id="by-hand"),
        pytest.param("db-0", [owned_by(controller=False)], None, id="not-its-controller"),
        pytest.param("db-0", [owned_by(kind="ReplicaSet")], None, id="replica-set"),
        pytest.param("db-0", [owned_by(apiVersion="example.com/v1")], None, id="another-groups-kind"),
        pytest.param("dc-0", [owned_by()], None, id="another-name"),
        pytest.param("db-01", [owned_by()], None, id="leading-zero"),
        pytest.param("db-", [owned_by()], None, id="no-ordinal"),
        pytest.param("db-0", [owned_by(uid="")], None, id="no-uid"),
    ],
)
def test_the_place_of_a_pod(pod, owners, place):
    assert ordinal(pod, owners) == place


@pytest.mark.parametrize(
    ("pod", "attachment"),
    [
        pytest.param("db-0", "db-0", id="as-it-is"),
        pytest.param("d" * 61 + "-0", "d" * 61 + "-0", id="longest"),
        pytest.param("d.b-0", "d-b-0-dc1fcec5a1b3f9c0", id="dot"),
    ],
)
def test_the_attachment_of_a_place(pod, attachment):
    name = ordinal_attachment(pod)
    assert name[:6] == attachment[:6]
    assert len(name) <= 63
    assert "." not in name
    assert (name == pod) == ("." not in pod)


@given(
    st.lists(st.from_regex(r"[a-z0-9]([-a-z0-9.]{0,80}[a-z0-9])?-[0-9]{1,3}", fullmatch=True), unique=True)
)
def test_two_pods_never_have_one_name(pods):
    assert len(set(map(ordinal_attachment, pods))) == len(pods)


@pytest.mark.parametrize(
    ("spec", "parsed"),
    [
        pytest.param({}, StatefulSet("u1", 1, 0, ""), id="defaults"),
        pytest.param({"replicas": 0}, StatefulSet("u1", 0, 0, ""), id="none"),
        pytest.param(
            {
                "replicas": 2,
                "ordinals": {"start": 5},
                "template": {"metadata": {"annotations": {VPC_ANNOTATION: "v"}}},
            },
            StatefulSet("u1", 2, 5, "v"),
            id="start",
        ),
    ],
)
def test_what_is_read_of_a_stateful_set(spec, parsed):
    assert parse_stateful_set({"metadata": {"uid": "u1"}, "spec": spec}) == parsed
    numbers = [number for number in range(10) if number in parsed]
    assert numbers == list(range(parsed.start, parsed.start + parsed.replicas))


class Controller:
    """Kubernetes' StatefulSet controller, and the webhook: ``step`` deletes surplus pods, and makes missing ones."""

    def __init__(self, cluster, name="db", vpc="v"):
        self.cluster, self.name = cluster, name
        template = {"metadata": {"annotations": {VPC_ANNOTATION: vpc}}}
        self.uid = ""
        self.create({"replicas": 0, "template": template})

    def create(self, spec):
        made = self.cluster.api.put(STATEFUL_SETS, {"metadata": {"name": self.name}, "spec": spec}, "default")
        self.uid = made["metadata"]["uid"]

    @property
    def spec(self):
        return self.cluster.api.stored(STATEFUL_SETS, self.name, "default")["spec"]

    def scale(self, replicas, **more):
        change = {"spec": {"replicas": replicas, **more}}
        self.cluster.api.change(STATEFUL_SETS, self.name, change, "default")
        self.step()

    def step(self):
        spec = self.spec
        annotations = spec["template"]["metadata"].get("annotations", {})
        wanted = {f"{self.name}-{number}" for number in range(spec["replicas"])}
        present = {
            key[2]
            for key in self.cluster.api.objects
            if key[0] == PODS.plural and key[2].startswith(self.name)
        }
        for name in present - wanted:
            self.cluster.api.remove(PODS, name, "default")
        for name in sorted(wanted - present):
            self.pod(name, annotations)

    def pod(self, name, annotations, **changes):
        meta = {"name": name, "ownerReferences": [owned_by(self.name, self.uid)], "annotations": annotations}
        if VPC_ANNOTATION in annotations:
            meta["annotations"] = {ATTACHMENT_ANNOTATION: ordinal_attachment(name), **annotations}
            meta["labels"] = {ATTACHMENT_LABEL: GENERATED}
        pod = {"metadata": meta | changes, "spec": {"nodeName": "node-1"}, "status": {"phase": "Pending"}}
        self.cluster.api.put(PODS, pod, "default")

    def restart(self, *numbers):
        for number in numbers:
            self.cluster.api.remove(PODS, f"{self.name}-{number}", "default")
        self.step()


@pytest.fixture
async def kept(clusters):
    made = clusters(Rules(scaled_down_retention=KEEP))
    await made.start()
    made.vpc("v", "10.1.1.0/24", "2001:10:1:1::/64")
    yield made
    await made.stop()


async def quiet(seconds=0.5):
    """Everything that is due now is done."""
    await asyncio.sleep(seconds)


def attachment(cluster, name):
    return cluster.api.stored(VPC_ATTACHMENTS, name, "default")


def addresses(cluster, *names):
    return [cluster.status(name)["addresses"] for name in names]


def carriers(cluster, name):
    return [carrier["uid"] for carrier in cluster.status(name)["carriers"]]


def uid(cluster, name):
    return cluster.api.stored(PODS, name, "default")["metadata"]["uid"]


async def test_it_belongs_to_the_stateful_set(kept):
    sets = Controller(kept)
    sets.scale(2)
    await quiet()
    meta = attachment(kept, "db-1")["metadata"]
    assert meta["ownerReferences"] == [owned_by(uid=sets.uid)]
    assert meta["labels"]["galactic.datumapis.com/statefulset"] == "db"
    assert meta["labels"]["galactic.datumapis.com/ordinal"] == "1"
    assert carriers(kept, "db-1") == [uid(kept, "db-1")]


async def test_a_pod_that_is_replaced_leaves_its_addresses_to_the_next(kept):
    sets = Controller(kept)
    sets.scale(2)
    await quiet()
    before, identity = addresses(kept, "db-0", "db-1"), attachment(kept, "db-0")["metadata"]["uid"]
    first = uid(kept, "db-0")
    kept.api.remove(PODS, "db-0", "default")
    await quiet(KEEP * 5)  # a node that is away for long, for example
    assert carriers(kept, "db-0") == []
    assert FINALIZER not in attachment(kept, "db-0")["metadata"].get("finalizers", ())
    sets.step()
    await quiet()
    assert uid(kept, "db-0") != first
    assert carriers(kept, "db-0") == [uid(kept, "db-0")]
    assert attachment(kept, "db-0")["metadata"]["uid"] == identity
    assert addresses(kept, "db-0", "db-1") == before


async def test_scaled_down_it_is_kept_and_then_released(kept):
    sets = Controller(kept)
    sets.scale(2)
    await quiet()
    (before,) = addresses(kept, "db-1")
    sets.scale(1)
    at = kept.now()
    await quiet()
    condition = kept.condition("Retained", "db-1")
    assert condition["reason"] == "ScaledDown"
    assert condition["message"] == (
        "StatefulSet db has 1 replica and no pod 1; the attachment and its addresses are released at "
        f"{stamp(at + KEEP)}"
    )
    await quiet(KEEP / 2)
    sets.scale(2)
    await quiet()
    assert addresses(kept, "db-1") == [before]
    assert kept.condition("Retained", "db-1") is None
    sets.scale(1)
    await quiet(KEEP * 0.9)
    assert attachment(kept, "db-1"), "the time began again"
    await quiet(KEEP * 0.2)
    assert attachment(kept, "db-1") is None
    assert attachment(kept, "db-0")


async def test_the_time_goes_on_while_the_operator_is_away(kept):
    sets = Controller(kept)
    sets.scale(2)
    await quiet()
    sets.scale(1)
    await quiet(KEEP / 2)
    await kept.stop()
    await quiet(KEEP)
    await kept.start()
    await quiet()
    assert attachment(kept, "db-1") is None
    assert attachment(kept, "db-0")


async def test_one_that_was_never_kept_is_kept_from_when_the_operator_sees_it(kept):
    sets = Controller(kept)
    sets.scale(2)
    await quiet()
    await kept.stop()
    sets.scale(1)
    await quiet(KEEP * 2)
    await kept.start()
    await quiet()
    assert kept.condition("Retained", "db-1")["status"] == "True"


async def test_without_a_retention_it_goes_with_the_pod(clusters):
    cluster = clusters(Rules(scaled_down_retention=0))
    await cluster.start()
    cluster.vpc("v")
    sets = Controller(cluster)
    sets.scale(2)
    await quiet()
    sets.scale(1)
    await quiet()
    assert attachment(cluster, "db-1") is None
    sets.restart(0)
    await quiet()
    assert attachment(cluster, "db-0")
    await cluster.stop()


async def test_a_vpc_that_is_deleted_waits_for_no_retention(kept):
    sets = Controller(kept)
    sets.scale(2)
    await quiet()
    sets.scale(0)
    await quiet()
    assert attachment(kept, "db-0")
    kept.api.remove(VPCS, "v", "default")
    await quiet(100)
    assert attachment(kept, "db-0") is None
    assert kept.api.stored(VPCS, "v", "default") is None


async def test_it_goes_with_the_stateful_set(kept):
    sets = Controller(kept)
    sets.scale(1)
    await quiet()
    ending = {"metadata": {"finalizers": ["its-grace-period"]}}
    kept.api.change(PODS, "db-0", ending, "default")
    kept.api.remove(STATEFUL_SETS, "db", "default")
    await quiet()
    assert "db-0" in kept.condition("Deleting", "db-0")["message"], "the pod is still there"
    kept.api.change(PODS, "db-0", {"metadata": {"finalizers": None}}, "default")
    await quiet()
    assert attachment(kept, "db-0") is None


async def test_a_stateful_set_that_is_made_again_gets_new_ones(kept):
    """Its pods come before garbage collection has deleted the old attachments."""
    sets = Controller(kept)
    sets.scale(1)
    await quiet()
    before, spec = attachment(kept, "db-0")["metadata"]["uid"], sets.spec
    orphaned = attachment(kept, "db-0")["metadata"].pop("ownerReferences")
    kept.api.remove(STATEFUL_SETS, "db", "default")
    attachment(kept, "db-0")["metadata"]["ownerReferences"] = orphaned
    sets.create(spec)
    sets.step()
    await quiet()
    assert "NameTaken" not in events(kept), "it is a moment behind"
    assert carriers(kept, "db-0") == []
    kept.api.remove(VPC_ATTACHMENTS, "db-0", "default")
    await quiet()
    after = attachment(kept, "db-0")["metadata"]
    assert after["uid"] != before
    assert after["ownerReferences"][0]["uid"] == sets.uid
    assert carriers(kept, "db-0") == [uid(kept, "db-0")]


async def test_pods_that_another_stateful_set_adopts_go_on(kept):
    """As with ``kubectl delete --cascade=orphan``, to change what is immutable."""
    sets = Controller(kept)
    sets.scale(1)
    await quiet()
    (before,), pod, spec = addresses(kept, "db-0"), uid(kept, "db-0"), sets.spec
    for resource in (VPC_ATTACHMENTS, PODS):
        kept.api.change(resource, "db-0", {"metadata": {"ownerReferences": None}}, "default")
    kept.api.remove(STATEFUL_SETS, "db", "default")
    await quiet(KEEP * 2)
    assert carriers(kept, "db-0") == [pod], "it was never detached"
    sets.create(spec)
    kept.api.change(PODS, "db-0", {"metadata": {"ownerReferences": [owned_by(uid=sets.uid)]}}, "default")
    await quiet()
    assert attachment(kept, "db-0")["metadata"]["ownerReferences"] == [owned_by(uid=sets.uid)]
    assert carriers(kept, "db-0") == [pod]
    assert addresses(kept, "db-0") == [before]


async def test_one_that_no_stateful_set_owns_is_released_too(kept):
    sets = Controller(kept)
    sets.scale(1)
    await quiet()
    for resource in (VPC_ATTACHMENTS, PODS):
        kept.api.change(resource, "db-0", {"metadata": {"ownerReferences": None}}, "default")
    kept.api.remove(STATEFUL_SETS, "db", "default")
    kept.api.remove(PODS, "db-0", "default")
    await quiet()
    assert kept.condition("Retained", "db-0")["reason"] == "NoStatefulSet"
    await quiet(KEEP * 1.1)
    assert attachment(kept, "db-0") is None


async def test_a_template_that_names_another_vpc(kept):
    kept.vpc("w", "10.9.9.0/24")
    sets = Controller(kept)
    sets.scale(2)
    await quiet()
    template = {"metadata": {"annotations": {VPC_ANNOTATION: "w"}}}
    kept.api.change(STATEFUL_SETS, "db", {"spec": {"template": template}}, "default")
    await quiet()
    assert attachment(kept, "db-1")["spec"]["vpc"]["name"] == "v", "its pod still runs"
    sets.restart(1)
    await quiet()
    assert attachment(kept, "db-1")["spec"]["vpc"]["name"] == "w"
    assert kept.status("db-1")["addresses"][0].startswith("10.9.9.")
    assert carriers(kept, "db-1") == [uid(kept, "db-1")]
    kept.api.change(
        STATEFUL_SETS, "db", {"spec": {"template": {"metadata": {"annotations": None}}}}, "default"
    )
    sets.restart(0)
    await quiet()
    assert kept.condition("Retained", "db-0")["reason"] == "TemplateChanged"


async def test_networks_that_the_template_accepts_from_now_on(kept):
    sets = Controller(kept)
    sets.scale(1)
    await quiet()
    annotations = {VPC_ANNOTATION: "v", ACCEPTED_ANNOTATION: "10.1.0.0/16"}
    template = {"metadata": {"annotations": annotations}}
    kept.api.change(STATEFUL_SETS, "db", {"spec": {"template": template}}, "default")
    sets.restart(0)
    await quiet()
    assert attachment(kept, "db-0")["spec"]["acceptedNetworks"] == ["10.1.0.0/16"]
    assert kept.status("db-0")["configuration"]["networks"] == ["10.1.1.0/24"]


async def test_one_that_an_earlier_version_gave_to_the_pod(kept):
    """With a webhook of this version, and an operator of the last."""
    sets = Controller(kept)
    await kept.stop()
    sets.scale(1)
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "db-0", "uid": uid(kept, "db-0"), "controller": True}
    meta = {"name": "db-0", "ownerReferences": [owner], "labels": {ATTACHMENT_LABEL: GENERATED}}
    kept.api.put(VPC_ATTACHMENTS, {"metadata": meta, "spec": {"vpc": {"name": "v"}}}, "default")
    await kept.start()
    await quiet()
    assert attachment(kept, "db-0")["metadata"]["ownerReferences"] == [owned_by(uid=sets.uid)]
    (before,) = addresses(kept, "db-0")
    sets.restart(0)
    await quiet()
    assert addresses(kept, "db-0") == [before]


def events(cluster):
    return {
        event["reason"] for (plural, _, _), event in cluster.api.objects.items() if plural == EVENTS.plural
    }


BY_HAND = {ATTACHMENT_ANNOTATION: "db-0", VPC_ANNOTATION: "v"}


@pytest.mark.parametrize(
    ("name", "annotations", "owners"),
    [
        pytest.param("db-0", BY_HAND, None, id="its-name"),
        pytest.param("x", BY_HAND, None, id="its-attachment"),
        pytest.param("x", {ATTACHMENT_ANNOTATION: "db-0"}, None, id="as-a-shared-one"),
        pytest.param("db-0", BY_HAND, [owned_by(uid="another")], id="of-another-stateful-set"),
        pytest.param("x-0", BY_HAND, [owned_by("x", "db")], id="of-another-name"),
    ],
)
async def test_a_pod_made_by_hand_does_not_carry_it(kept, name, annotations, owners):
    sets = Controller(kept)
    sets.scale(1)
    await quiet()
    before = attachment(kept, "db-0")["metadata"]["uid"]
    kept.api.remove(PODS, "db-0", "default")
    await quiet()
    owners = [owner | ({"uid": sets.uid} if owner["uid"] == "db" else {}) for owner in owners or ()]
    sets.pod(name, annotations, ownerReferences=owners)
    await quiet()
    assert carriers(kept, "db-0") == []
    assert attachment(kept, "db-0")["metadata"]["uid"] == before
    assert FINALIZER not in attachment(kept, "db-0")["metadata"].get("finalizers", ())


async def test_one_of_that_name_that_a_user_made_stays_the_users(kept):
    kept.attachment("db-0")
    sets = Controller(kept)
    sets.scale(1)
    await quiet()
    assert "ownerReferences" not in attachment(kept, "db-0")["metadata"]
    assert "NameTaken" in events(kept)


async def test_constant_work_a_replacement(kept):
    sets = Controller(kept)
    counts = []
    for number in (10, 110):
        sets.scale(number)
        await quiet()
        kept.api.requests.clear()
        sets.restart(*range(number - 10, number))
        await quiet()
        counts.append(len([request for request in kept.api.requests if request[1] not in ("Event", "VPC")]))
    assert counts[0] == counts[1] <= 10 * 4


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("scale"), st.integers(0, 3)),
        st.tuples(st.just("kill"), st.integers(0, 2)),
        st.tuples(st.just("step"), st.just(0)),
        st.tuples(st.just("pass"), st.sampled_from([1, 400, 700, 1500])),
        st.tuples(st.just("operator"), st.just(0)),
    ),
    max_size=14,
)


class Model:
    """The attachment that each ordinal must have. ``surplus``: since when it is not wanted and has no pod."""

    def __init__(self, cluster, sets):
        self.cluster, self.sets = cluster, sets
        self.held, self.surplus = {}, {}

    def check(self):
        for number in range(3):
            self._check(number, f"db-{number}")
        assert len({tuple(addresses) for addresses in self.held.values()}) == len(self.held)

    def _check(self, number, name):
        now, present = self.cluster.now(), attachment(self.cluster, name)
        wanted = number < self.sets.spec["replicas"] or self.cluster.api.stored(PODS, name, "default")
        since = None if wanted else self.surplus.setdefault(number, now)
        if wanted:
            self.surplus.pop(number, None)
        if present is None:
            assert number not in self.held or (since is not None and now - since >= KEEP - 2)
            self.held.pop(number, None)
            return
        assert since is None or now - since <= KEEP + 120
        if present.get("status", {}).get("ready"):
            assert (
                self.held.setdefault(number, present["status"]["addresses"]) == present["status"]["addresses"]
            )

    def gap(self):
        """A time in which the operator saw nothing: a scale-down begins when it sees it."""
        self.surplus.clear()


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
def test_in_any_order_an_ordinal_keeps_its_addresses_while_it_is_wanted(clusters, steps):
    """And for KEEP seconds more; a while after that nothing is left of it."""

    async def story():
        cluster = clusters(Rules(scaled_down_retention=KEEP))
        await cluster.start()
        cluster.vpc("v", "10.1.1.0/28")
        sets, runs = Controller(cluster), True
        model = Model(cluster, sets)
        for action, value in steps:
            match action:
                case "scale":
                    cluster.api.change(STATEFUL_SETS, "db", {"spec": {"replicas": value}}, "default")
                    sets.step()
                case "kill" if cluster.api.stored(PODS, f"db-{value}", "default"):
                    cluster.api.remove(PODS, f"db-{value}", "default")
                case "step":
                    sets.step()
                case "operator":
                    await (cluster.stop() if runs else cluster.start())
                    runs = not runs
            await quiet(value if action == "pass" else 0.5)
            if runs:
                model.check()
            else:
                model.gap()
        await cluster.stop()

    with asyncio.Runner(loop_factory=Clockwork) as runner:
        runner.run(story())
