"""Galactic's dashboards: as data, as Grafana's JSON, and as pictures with a lab's figures.

``python -m observability`` writes charts/galactic/files/dashboards, ``--check`` lists the files that differ;
``python -m observability.picture`` draws docs/pictures from a lab with a Prometheus (``drawing``).

``boards`` are the dashboards, of ``panel`` values; ``grafana`` makes the JSON. ``promql`` parses expressions, ``asked``
fills in variables as Grafana does.
"""
