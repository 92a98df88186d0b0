import pytest

from galactic.kube.reflector import Selection
from galactic.kube.resources import VPCS
from galactic.operator.cache import Cache
from galactic.operator.objects import Invalid
from galactic.operator.state import Caches


def cached(name="a", version="1", uid="u", **more):
    return {"metadata": {"name": name, "namespace": "ns", "uid": uid, "resourceVersion": version}, **more}


@pytest.fixture
def cache():
    made = Cache(Selection(VPCS), lambda raw: raw["metadata"]["resourceVersion"])
    made.differences = []
    made.changed = lambda *difference: made.differences.append(difference)
    return made


def test_older_and_repeated_news_are_ignored(cache):
    for version in ("5", "4", "5", "10", "9"):
        cache.set(cached(version=version))
    assert [new for _, _, new in cache.differences] == ["5", "10"]


def test_a_namesake_is_another_object(cache):
    cache.set(cached(uid="old", version="9"))
    cache.set(cached(uid="new", version="3"))
    cache.remove(("ns", "a"), "old")
    assert cache.get(("ns", "a")) == "3"
    cache.remove(("ns", "a"), "new")
    assert cache.get(("ns", "a")) is None


def test_a_list_removes_what_it_lacks_but_not_what_came_after_it_was_asked_for(cache):
    cache.set(cached("a"))
    cache.set(cached("b"))
    since = cache.clock
    cache.set(cached("c", version="7"))
    cache.set(cached("b", version="8"))
    cache.set(cached("b", version="2"))
    assert cache.retain({("ns", "b")}, since) == 1
    assert sorted(key[1] for key in cache) == ["b", "c"]
    assert cache.get(("ns", "b")) == "8"


def test_what_does_not_fit_its_model_is_kept_as_broken():
    caches = Caches()
    caches.vpcs.set(cached(spec={"networks": []}))
    invalid = caches.vpcs.get(("ns", "a"))
    assert isinstance(invalid, Invalid)
    assert "spec.networks" in str(invalid.problem)
