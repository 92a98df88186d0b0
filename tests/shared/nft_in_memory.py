"""The kernel's tables of nftables, for tests of what writes them."""

from galactic.linux.nftables import Present, Table


class Nft:
    """The scripts, a generation that rises with each, and what another program changed."""

    def __init__(self) -> None:
        self.scripts, self.number, self.changed = [], 0, ""

    async def apply(self, script):
        self.scripts.append(script)
        self.number += 1

    async def present(self, table):
        return Present(bool(self.scripts))

    async def fingerprint(self, written: Table):
        return f"{len(written.chains)}{self.changed}"

    def generation(self):
        return self.number

    async def counted(self, table, name):
        return {f"{table} {name}": 3}
