"""When a table of nftables is listed, and when it is written again."""

import pytest
from nft_in_memory import Nft

from galactic.linux.kept_table import LISTED_SECONDS, KeptTable
from galactic.linux.nftables import Chain, Table

TABLE = Table("inet galactic-test", chains={"first": Chain(("accept",))})


class Kept:
    """A table that was written and listed once; other programs' transactions follow."""

    def __init__(self):
        self.kernel, self.time, self.repairs = Nft(), 1000.0, []
        self.table = KeptTable(self.kernel, TABLE.name, lambda: self.repairs.append(1), lambda: self.time)

    async def begin(self, *, followed):
        self.kernel.followed = followed
        await self.table.write(TABLE)
        self.table.named()  # its own transaction
        await self.table.verify()
        self.kernel.listings = 0
        self.kernel.scripts.clear()

    def another_transaction(self, *, named, changed=""):
        self.kernel.number += 1
        self.kernel.changed = changed
        if named:
            self.table.named()

    @property
    def seen(self):
        return self.kernel.listings, len(self.kernel.scripts), len(self.repairs)


@pytest.mark.parametrize(
    ("followed", "named", "later", "listings"),
    [
        pytest.param(True, False, 8.0, 0, id="another-table"),
        pytest.param(True, True, 8.0, 1, id="this-table"),
        pytest.param(False, False, 8.0, 1, id="without-notifications"),
        pytest.param(True, False, LISTED_SECONDS, 1, id="after-a-long-time"),
    ],
)
async def test_other_programs_transactions_cost_a_listing(followed, named, later, listings):
    kept = Kept()
    await kept.begin(followed=followed)
    kept.another_transaction(named=named)
    kept.time += later
    await kept.table.verify()
    assert kept.seen == (listings, 0, 0)
    kept.another_transaction(named=False)
    await kept.table.verify()
    assert kept.seen == (listings + (not followed), 0, 0), "what was listed is not listed again"


async def test_a_change_that_is_reported_after_the_look_is_put_back():
    kept = Kept()
    await kept.begin(followed=True)
    kept.another_transaction(named=False, changed="by hand")
    await kept.table.verify()
    assert kept.seen == (0, 0, 0), "the notification is under way"
    kept.table.named()
    await kept.table.verify()
    assert kept.seen == (1, 1, 1)


async def test_a_change_while_notifications_were_missing_is_put_back():
    kept = Kept()
    await kept.begin(followed=False)
    kept.another_transaction(named=False, changed="by hand")
    kept.kernel.followed = True
    kept.table.named()  # as with the first notification
    await kept.table.verify()
    assert kept.seen == (1, 1, 1)


async def test_its_own_transaction_costs_no_listing():
    kept = Kept()
    await kept.begin(followed=True)
    await kept.table.write(Table(TABLE.name, chains={"first": Chain(("drop",))}))
    kept.table.named()
    await kept.table.verify(thorough=False)
    assert kept.seen == (0, 1, 0)
    await kept.table.verify()
    assert kept.seen == (1, 1, 0), "its fingerprint"
