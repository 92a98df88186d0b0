"""The four dashboards: ``fleet``, ``node``, ``vpc``, ``router``; ``queries`` are expressions that several share.

Every panel answers a question. Counters of failures start at 0, so that their panels have data without any failure.
"""

from typing import Final

from observability.boards.fleet import FLEET
from observability.boards.node import NODE
from observability.boards.router import ROUTER
from observability.boards.vpc import VPC

BOARDS: Final = (FLEET, NODE, VPC, ROUTER)
