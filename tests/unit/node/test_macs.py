"""MACs of devices: as made or as first read, whatever another program sets later."""

from galactic.linux.objects import Link, Objects, change
from galactic.node.dataplane.macs import Macs

NAME = "G000000001001H"
PLANNED, DRAWN, CHANGED = "02:00:00:00:00:01", "aa:00:00:00:00:02", "aa:00:00:00:00:03"


def link(mac, index=7):
    return {NAME: Link("veth", ifindex=index, mac=mac)}


def kept(macs):
    return macs.kept(Objects(links={NAME: Link("veth", mac=PLANNED)})).links[NAME].mac


def test_a_device_that_is_made_has_the_planned_one():
    macs = Macs()
    assert kept(macs) == PLANNED
    macs.made(link(PLANNED, 0), [NAME])
    macs.observe(link(CHANGED))
    assert kept(macs) == PLANNED


def test_a_device_of_an_earlier_version_keeps_its_own():
    macs = Macs()
    macs.observe(link(DRAWN))
    assert kept(macs) == DRAWN
    macs.observe(link(CHANGED))
    assert kept(macs) == DRAWN


def test_a_device_that_another_made_again_or_that_is_gone():
    macs = Macs()
    macs.observe(link(DRAWN))
    macs.observe(link(CHANGED, 8))
    assert kept(macs) == CHANGED
    macs.observe({})
    assert kept(macs) == PLANNED


def test_a_changed_mac_is_a_difference_and_no_mac_is_none():
    actual = Objects(links=link(CHANGED))
    assert change(Objects(links={NAME: Link("veth", mac=DRAWN)}), actual).links.set
    assert not change(Objects(links={NAME: Link("veth")}), actual)
