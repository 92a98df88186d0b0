"""Programs, kernels and packages that labs and tests need, and the cache of what is built once.

``build``: a cached build. ``go_toolchain``, ``build_modules``: programs from Go modules (``modules/``), with their
Go. ``build_helm``: Helm. ``guest_kernels``, ``build_linux``: guest kernels, chosen and built (``guest.config``).
``guest_sources``: changes of their source, which are ``guest_clock`` (``vdso/``) and ``guest_memory`` (``prefault/``).
``packages``, ``suites``: Debian's packages. ``cache``: the folder. ``fetching``: further tries where a mirror is away.
"""
