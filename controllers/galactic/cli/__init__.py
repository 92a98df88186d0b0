"""The ``galactic`` command, also ``kubectl galactic``."""
