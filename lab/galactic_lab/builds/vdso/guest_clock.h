/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The clock of a User Mode Linux guest, as its vDSO has it: the host's CLOCK_MONOTONIC and what the guest's is ahead of
 * it, in nanoseconds. The guest's kernel finds it in the vDSO's page by its mark and sets it at boot.
 */
#ifndef GUEST_CLOCK_H
#define GUEST_CLOCK_H

#define GUEST_CLOCK_MARK 0x6b636f6c63747367ull

/* The sixth argument of clock_gettime(2) that the filter of a guest's processes lets through to the host. */
#define GUEST_CLOCK_CALL 0x67637463

struct guest_clock {
	unsigned long long mark;
	long long set;
	long long monotonic;
};

#endif
