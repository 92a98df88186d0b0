"""Reference pages of docs/reference, made from the code: ``python -m reference [--check] docs/reference``."""
