"""A sysdump has the objects of every kind of Galactic's own, also in a cluster of an earlier version."""

from typing import Any

from galactic.cli.sysdump import _objects
from galactic.crds.schema import KINDS
from galactic.errors import Rejected
from galactic.kube.api import NotFound
from galactic.kube.resources import NADS, VPC_GATEWAYS, VPC_POLICIES, Resource


class Folder:
    """The archive's files."""

    def __init__(self) -> None:
        self.files: dict[str, Any] = {}

    def json(self, name: str, value: Any) -> None:
        self.files[name] = value


class Kube:
    """An API server without some kinds, and with others that may not be listed."""

    def __init__(self, absent: tuple[Resource, ...], forbidden: tuple[Resource, ...]) -> None:
        self._absent, self._forbidden = absent, forbidden

    async def list(self, resource: Resource, **_: Any) -> tuple[list[dict[str, Any]], str]:
        if resource in self._absent:
            raise NotFound("the server could not find the requested resource")
        if resource in self._forbidden:
            raise Rejected("you may not", reason="Forbidden")
        return [], "1"


async def dumped(*absent: Resource, forbidden: tuple[Resource, ...] = ()) -> tuple[set[str], list[str]]:
    folder, errors = Folder(), list[str]()
    await _objects(Kube(absent, forbidden), folder, errors)  # type: ignore[arg-type]
    return {name.removeprefix("objects/").removesuffix(".json") for name in folder.files}, errors


async def test_every_kind_is_in_it() -> None:
    files, errors = await dumped()
    assert {kind.PLURAL for kind in KINDS} <= files
    assert errors == []


async def test_a_kind_that_an_earlier_version_lacks_is_not_missing() -> None:
    files, errors = await dumped(VPC_POLICIES, VPC_GATEWAYS)
    assert not {"vpcpolicies", "vpcgateways"} & files
    assert errors == []
    assert len((await dumped(NADS))[1]) == 1, "another kind is"


async def test_what_may_not_be_listed_is_missing() -> None:
    _, errors = await dumped(forbidden=(VPC_GATEWAYS,))
    assert errors == ["objects of kind VPCGateway: you may not"]
