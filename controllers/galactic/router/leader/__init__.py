"""Which of several routers leads (docs/design/router-leader.md).

``election``: which replica may claim to. ``leadership``: the claim itself, ended by a higher term.
"""
