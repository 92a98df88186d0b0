"""Certificates: at every moment of their renewals the trusted CAs verify the served certificate."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from galactic.errors import Rejected
from galactic.kube.certificates import Bundle, Lifetime, renewed

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = ("galactic-webhook.galactic-system.svc", "fd00::1")
DAYS_90 = Lifetime(timedelta(days=90))


def authorities(bundle: Bundle) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(bundle.ca.certificates)


def serving(bundle: Bundle) -> x509.Certificate:
    (certificate,) = x509.load_pem_x509_certificates(bundle.serving.certificates)
    return certificate


def trusts(trusted: Bundle, served: Bundle, now: datetime) -> bool:
    """Whether a client with the CAs of one bundle accepts the serving certificate of the other."""
    certificate = serving(served)
    for authority in authorities(trusted):
        try:
            certificate.verify_directly_issued_by(authority)
        except Exception:  # noqa: BLE001, S112 - whatever it is called, it is not the issuer
            continue
        return all(
            valid.not_valid_before_utc <= now < valid.not_valid_after_utc
            for valid in (certificate, authority)
        )
    return False


def test_nothing_is_due_for_two_thirds_of_a_life() -> None:
    bundle = renewed(None, NAMES, DAYS_90, NOW)
    assert trusts(bundle, bundle, NOW)
    assert renewed(bundle, NAMES, DAYS_90, NOW + timedelta(days=59)) is bundle
    assert renewed(bundle, NAMES, DAYS_90, NOW + timedelta(days=61)) != bundle


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.001, 0.04), min_size=60, max_size=60))
def test_replicas_that_renew_at_any_pace_trust_each_other(pauses: list[float]) -> None:
    """The one who trusts, and the one who serves, are behind by up to a third of the overlap."""
    lifetime = Lifetime(timedelta(hours=1))
    delay, now = lifetime.overlap / 3, NOW
    history = [(now, renewed(None, NAMES, lifetime, now))]
    changes = 0
    for pause in pauses:
        now += lifetime.total * pause
        after = renewed(history[-1][1], NAMES, lifetime, now)
        changes += after != history[-1][1]
        history.append((now, after))
        # All bundles that a replica may still use: the last one that is old enough, and all since.
        old = max((index for index, (when, _) in enumerate(history) if when <= now - delay), default=0)
        recent = dict.fromkeys(bundle for _, bundle in history[old:])
        assert all(trusts(trusted, other, now) for trusted in recent for other in recent)
    assert changes or now - NOW < lifetime.renewal


def test_a_change_of_the_ca_is_three_steps() -> None:
    lifetime = Lifetime(timedelta(hours=12))  # overlap: 1 h
    first = renewed(None, NAMES, lifetime, NOW)
    at = NOW + timedelta(hours=8)
    second = renewed(first, NAMES, lifetime, at)
    assert len(authorities(second)) == 2
    assert second.serving == first.serving
    assert renewed(second, NAMES, lifetime, at + timedelta(minutes=50)) is second
    at += timedelta(minutes=61)
    third = renewed(second, NAMES, lifetime, at)
    assert third.ca == second.ca
    assert third.serving != second.serving
    assert renewed(third, NAMES, lifetime, at + timedelta(minutes=50)) is third
    fourth = renewed(third, NAMES, lifetime, at + timedelta(minutes=61))
    assert len(authorities(fourth)) == 1
    assert fourth.serving == third.serving
    assert trusts(fourth, fourth, at)


def test_another_name_and_a_long_absence_mean_a_new_certificate() -> None:
    bundle = renewed(None, NAMES, DAYS_90, NOW)
    moved = renewed(bundle, ("fd00::2",), DAYS_90, NOW)
    assert moved.ca == bundle.ca
    names = serving(moved).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(one.value) for one in names] == ["fd00::2"]
    late = NOW + timedelta(days=100)
    assert trusts(fresh := renewed(bundle, NAMES, DAYS_90, late), fresh, late)
    # The same name written differently is no other name.
    assert renewed(bundle, ("fd00:0::1", NAMES[0]), DAYS_90, NOW) is bundle


def test_a_secret_is_read_back_and_nonsense_refused() -> None:
    bundle = renewed(None, NAMES, DAYS_90, NOW)
    assert Bundle.of(bundle.data()) == bundle
    other = renewed(None, NAMES, DAYS_90, NOW)
    for broken in (
        {},
        bundle.data() | {"tls.key": b"nonsense"},
        bundle.data() | {"tls.key": other.data()["tls.key"]},
        bundle.data() | {"ca.crt": b""},
    ):
        with pytest.raises(Rejected):
            Bundle.of(broken)
