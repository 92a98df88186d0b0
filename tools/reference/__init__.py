"""Reference pages and pictures made from the code: ``python -m reference [--check] docs``.

One module a page: ``kinds``, ``values``, ``settings``, ``metrics``, ``reasons``, ``protocol`` (topics and CNI errors).
``page`` writes Markdown. ``pictures`` are those of docs/concepts.md, by ``drawing``; ``imports`` those of
docs/design/rooms.md.
"""
