"""Connections to an API server by a kubeconfig."""

import json
import ssl
from pathlib import Path

import pytest
from strictness import make_contexts_strict

from galactic.kube.client import connect


async def test_a_cluster_whose_ca_lacks_key_usage_is_talked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    make_contexts_strict(monkeypatch)
    async with await connect() as kube:
        context = kube._api.rest_client.ssl_context
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert not context.verify_flags & ssl.VERIFY_X509_STRICT
