import asyncio

from galactic.crds.model import Meta
from galactic.kube.memory import MemoryApi
from galactic.kube.resources import EVENTS, VPCS
from galactic.operator.events import BURST, Events

META = Meta(name="v", namespace="ns", uid="u")


async def test_an_object_has_a_budget_that_refills_and_repetitions_are_dropped():
    clock = [0.0]
    events = Events(MemoryApi(), lambda: clock[0])
    assert events.record(VPCS, META, "Normal", "Ready", "one")
    assert not events.record(VPCS, META, "Normal", "Ready", "one")
    recorded = [events.record(VPCS, META, "Normal", "Ready", str(number)) for number in range(2 * BURST)]
    assert sum(recorded) == BURST - 1
    assert events.dropped == BURST + 1
    assert events.record(VPCS, META.model_copy(update={"uid": "w"}), "Normal", "Ready", "another object's")
    clock[0] += 120
    assert events.record(VPCS, META, "Normal", "Ready", "later")


async def test_what_is_written():
    api = MemoryApi()
    events = Events(api)
    events.record(VPCS, META, "Warning", "Conflict", "why")
    work = asyncio.create_task(events.run())
    await asyncio.sleep(0.01)
    work.cancel()
    (event,) = api.all(EVENTS)
    assert event["involvedObject"] == {
        "apiVersion": "galactic.datumapis.com/v1alpha",
        "kind": "VPC",
        "name": "v",
        "namespace": "ns",
        "uid": "u",
        "resourceVersion": "",
    }
    assert (event["type"], event["reason"], event["message"]) == ("Warning", "Conflict", "why")
    assert event["metadata"]["namespace"] == "ns"
