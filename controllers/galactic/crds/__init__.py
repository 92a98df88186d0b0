"""The three kinds as pydantic models: the one source of ``crds/*.yaml``, of validation and of the docs' field lists."""
