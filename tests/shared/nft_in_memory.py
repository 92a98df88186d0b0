"""The kernel's tables of nftables, for tests of what writes them."""

from galactic.linux.nftables import Present, Table


class Nft:
    """The scripts, a generation that rises with each, what another program changed, and the number of listings."""

    def __init__(self) -> None:
        self.scripts, self.number, self.changed = [], 0, ""
        self.followed, self.listings = False, 0

    async def apply(self, script):
        self.scripts.append(script)
        self.number += 1

    async def present(self, table):
        return Present(bool(self.scripts))

    async def fingerprint(self, written: Table):
        self.listings += 1
        return f"{len(written.chains)}{self.changed}"

    def generation(self):
        return self.number

    async def counted(self, table, name):
        return {f"{table} {name}": 3}
