"""Images, manifests, licences and audits of a release: ``PYTHONPATH=tools python -m release.…``, as in the Makefile."""
