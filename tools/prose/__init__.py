"""A check of prose and names: words of CONTRIBUTING.md, "Prose and names", that new text does without.

``marks`` finds them, ``ratchet`` compares their numbers with ``counts.json``.
"""
