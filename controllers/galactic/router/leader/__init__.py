"""Which of several routers leads (docs/design/router-leader.md).

``election``: which router may claim to lead. ``state_machine``: leadership as a value, and its transitions.
``leadership``: carries these out. ``gate``: the claim, and whether anything else may be published. ``reign``: what a
router does while it leads. ``installation``: the tables in force, which it starts from.
"""
