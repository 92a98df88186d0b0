"""How a refusal names the holder of an address or an identifier."""


def named(kind: str, holder: tuple[str, str], asker: str, owner: str = "") -> str:
    """Kind and name of the holder, if the namespace ``asker`` is the holder's own or the VPC's (``owner``).

    Other namespaces do not learn each other's names.
    """
    if asker in (holder[0], owner):
        return f"{kind} {holder[0]}/{holder[1]}"
    return f"a {kind} of another namespace"


def remedy(holder: tuple[str, str], asker: str, owner: str = "") -> str:
    """The remedy of the same refusal."""
    if asker in (holder[0], owner):
        return "choose another, or delete that one first"
    return "choose another"
