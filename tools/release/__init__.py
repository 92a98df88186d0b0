"""What makes a release, and says what is in it: ``PYTHONPATH=tools python -m release.…``, as the Makefile does."""
