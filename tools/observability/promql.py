"""Metrics in PromQL expressions, and the labels that they select or group by."""

import re
from typing import Final

METRIC: Final = re.compile(r"\b(?:galactic_\w+|process_\w+|up|ALERTS)\b(?=[\s{\[)]|$)")
_MATCHERS: Final = re.compile(r"([\w]+)\{([^}]*)\}")
_LABEL: Final = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_GROUPED: Final = re.compile(r"\b(?:by|on|without|group_left|group_right)\s*\(([^)]*)\)")
_STRING: Final = re.compile(r'"[^"]*"')


def metrics(expression: str) -> set[str]:
    """Names of metrics."""
    return set(METRIC.findall(_STRING.sub('""', expression)))


def matched(expression: str) -> set[tuple[str, str]]:
    """(metric, label) for each label in braces."""
    found = set()
    for metric, inside in _MATCHERS.findall(_STRING.sub("", expression)):
        found |= {(metric, label) for label in _LABEL.findall(inside)}
    return found


def grouped(expression: str) -> set[str]:
    """The labels in by, on, without, group_left and group_right."""
    return {
        label.strip()
        for inside in _GROUPED.findall(expression)
        for label in inside.split(",")
        if label.strip()
    }
