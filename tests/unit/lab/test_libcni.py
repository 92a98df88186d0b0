"""CNI plugins are called as libcni calls them. The plugins here are shell scripts that write down what they get."""

import json
from pathlib import Path

import pytest

from galactic.errors import Rejected
from galactic_lab.node.libcni import Attachment, PluginFailed, Runtime, conflist

ATTACHMENT = Attachment("c1", "/run/netns/x", "net1", "IgnoreUnknown=1", {"ips": ["10.0.0.1"]})
LIST = {
    "name": "n",
    "cniVersion": "1.0.0",
    "plugins": [{"type": "first", "capabilities": {"ips": True}}, {"type": "second", "key": 1}],
}


def plugin(folder: Path, name: str, *, body: str = "") -> None:
    path = folder / name
    path.write_text(
        f"#!/bin/sh\nprintf '%s %s %s %s ' {name} $CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME >> {folder}/calls\n"
        f"cat >> {folder}/calls; echo >> {folder}/calls\n"
        + (body or f'[ $CNI_COMMAND = ADD ] && echo \'{{"cniVersion":"1.0.0","by":"{name}"}}\'; exit 0\n')
    )
    path.chmod(0o755)


def calls(folder: Path) -> list[tuple[list[str], dict[str, object]]]:
    result = []
    for line in (folder / "calls").read_text().splitlines():
        *words, body = line.split(" ", 4)
        result.append((words, json.loads(body)))
    return result


def test_add_chains_results_and_passes_capabilities(tmp_path: Path) -> None:
    plugin(tmp_path, "first")
    plugin(tmp_path, "second")
    result = Runtime([tmp_path]).add(LIST, ATTACHMENT)
    assert result == {"cniVersion": "1.0.0", "by": "second"}
    (words, one), (_, two) = calls(tmp_path)
    assert words == ["first", "ADD", "c1", "net1"]
    assert one == {
        "type": "first",
        "name": "n",
        "cniVersion": "1.0.0",
        "runtimeConfig": {"ips": ["10.0.0.1"]},
    }
    assert two["prevResult"] == {"cniVersion": "1.0.0", "by": "first"}
    assert "runtimeConfig" not in two


def test_delete_goes_backwards_with_the_result_of_add(tmp_path: Path) -> None:
    plugin(tmp_path, "first")
    plugin(tmp_path, "second")
    Runtime([tmp_path]).delete(LIST, ATTACHMENT, {"by": "second"})
    assert [(words[0], body["prevResult"]) for words, body in calls(tmp_path)] == [
        ("second", {"by": "second"}),
        ("first", {"by": "second"}),
    ]


def test_a_refusal_carries_the_plugins_own_words(tmp_path: Path) -> None:
    plugin(tmp_path, "first", body='echo \'{"code": 11, "msg": "come back", "details": "later"}\'; exit 1\n')
    with pytest.raises(PluginFailed, match=r"come back \(code 11\): later"):
        Runtime([tmp_path]).add(LIST, ATTACHMENT)


def test_a_missing_plugin_is_named(tmp_path: Path) -> None:
    with pytest.raises(PluginFailed, match="'first'"):
        Runtime([tmp_path]).add(LIST, ATTACHMENT)


def test_a_single_configuration_becomes_a_list() -> None:
    assert conflist('{"type": "x", "cniVersion": "0.4.0", "mtu": 1400}', "nad") == {
        "name": "nad",
        "cniVersion": "0.4.0",
        "plugins": [{"type": "x", "mtu": 1400}],
    }


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"plugins": [{}]}'])
def test_nonsense_is_rejected(text: str) -> None:
    with pytest.raises(Rejected):
        conflist(text, "nad")
