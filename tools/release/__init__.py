"""Images, manifests, licences and audits of a release: ``PYTHONPATH=tools python -m release.…``, as in the Makefile.

``image``: the image, with ``lending`` for this machine's pip settings. ``manifest``: dist/install.yaml. ``licences``,
``sbom``, ``audit``: the libraries of the image, from ``distributions``. ``proven``: docs/proven.md.
"""
