"""The tutorials, and what else in docs/ has commands, work as they are written: files, commands, and what they show."""

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from blocks import blocks, pages, walk
from patient import at_hand

from galactic_lab.cluster import Lab
from galactic_lab.state import checkout

MARKS = {page: {block.mark for block in blocks(page) if block.run} for page in pages()}
PAGES = [page for page, marks in MARKS.items() if marks and "run: two clusters" not in marks]
"""The others are walked where there are two: test_two_clusters_share_a_vpc.py."""
NAMESPACES = (
    *("shop", "rival", "branch", "fleet", "ledger", "orders", "market", "bank", "meter", "bakery"),
    "outpost",
)


@pytest.fixture(scope="module")
def walks(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Path, Future[None]]]:
    """All pages are walked side by side: each has namespaces of its own, and mostly waits."""
    kubectl = at_hand(tmp_path_factory.mktemp("bin") / "bin", lab.assets.kubectl)
    commands = [kubectl, str(lab.state.root / "bin"), str(checkout() / ".venv" / "bin"), os.environ["PATH"]]
    environment = os.environ | {
        "PATH": ":".join(commands),
        "KUBECONFIG": str(lab.kubeconfig),
        "GALACTIC_LAB": lab.state.name,
    }
    with ThreadPoolExecutor(len(PAGES)) as pool:
        yield {
            page: pool.submit(walk, page, tmp_path_factory.mktemp(page.stem), environment) for page in PAGES
        }
    # Of a page that failed half-way; deleting them is otherwise its own last step.
    lab.kubectl("delete", "namespace", *NAMESPACES, "--ignore-not-found", "--timeout=400s", check=False)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_tutorial(walks: dict[Path, Future[None]], page: Path) -> None:
    walks[page].result()
