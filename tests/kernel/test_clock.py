"""Clocks read by the vDSO are those that the kernel has: the lab's guests have a vDSO of their own."""

import ctypes
import time

import pytest

pytestmark = pytest.mark.every_kernel

LIBC = ctypes.CDLL(None)
SYS_CLOCK_GETTIME = 228
READINGS = 1_000
RESOLUTION = 1_000
"""In nanoseconds: a guest's kernel counts in steps of 256."""


class Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def by_system_call(clock: int) -> int:
    """Nanoseconds."""
    now = Timespec()
    assert LIBC.syscall(SYS_CLOCK_GETTIME, clock, ctypes.byref(now)) == 0
    return now.seconds * 10**9 + now.nanoseconds


@pytest.mark.parametrize("clock", [time.CLOCK_MONOTONIC, time.CLOCK_REALTIME], ids=["monotonic", "realtime"])
def test_the_vdsos_clock_is_the_kernels(clock: int) -> None:
    for _ in range(READINGS):
        before, middle, after = (
            time.clock_gettime_ns(clock),
            by_system_call(clock),
            time.clock_gettime_ns(clock),
        )
        assert before - RESOLUTION <= middle <= after + RESOLUTION


def test_a_wait_for_a_moment_ends_at_that_moment() -> None:
    """Waits go by the kernel's clock, moments by the vDSO's."""
    moment = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + 20_000_000
    until = Timespec(*divmod(moment, 10**9))
    timer_abstime = 1
    assert LIBC.clock_nanosleep(time.CLOCK_MONOTONIC, timer_abstime, ctypes.byref(until), None) == 0
    assert time.clock_gettime_ns(time.CLOCK_MONOTONIC) >= moment - RESOLUTION
