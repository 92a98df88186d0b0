"""The chart's webhook configurations in a lab: the API server calls the webhooks by address, not by a Service."""

import json
from pathlib import Path

from galactic.settings import WebhookSettings
from galactic_lab.controlplane import rbac
from galactic_lab.controlplane.controllers import webhook_url
from galactic_lab.state import State


def manifest(state: State, helm: Path, chart: Path, version: tuple[int, int]) -> str:
    """The configurations, for an API server of that version. YAML."""
    variables = {
        "GALACTIC_WEBHOOK_URL": webhook_url(state),
        "GALACTIC_NODE_IDENTITIES": WebhookSettings.model_fields["node_identities"].default,
    }
    given = [{"name": name, "value": value} for name, value in variables.items()]
    return rbac.rendered(
        helm, chart, version, "admission", f"--set-json=webhook.extraEnv={json.dumps(given)}"
    )
