// SPDX-License-Identifier: GPL-2.0
/* Sets what the guest's CLOCK_MONOTONIC is ahead of the host's, in the vDSO's page, once the guest keeps its own time. */
#include <linux/init.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/timekeeping.h>
#include <os.h>
#include "guest_clock.h"

#define READINGS 100

extern struct page *um_vdso;

static int __init set_guest_clock(void)
{
	struct guest_clock *clock = page_address(um_vdso);
	struct guest_clock *end = page_address(um_vdso) + PAGE_SIZE;
	long long shortest = LLONG_MAX;
	int reading;

	while (clock->mark != GUEST_CLOCK_MARK) {
		clock = (void *)clock + sizeof(clock->mark);
		if (clock + 1 > end) {
			pr_err("the vDSO has no clock\n");
			return -ENOENT;
		}
	}
	for (reading = 0; reading < READINGS; reading++) {
		long long before = os_nsecs();
		long long monotonic = ktime_get_ns();
		long long after = os_nsecs();

		if (after - before >= shortest)
			continue;
		shortest = after - before;
		clock->monotonic = monotonic - before;
	}
	clock->set = 1;
	return 0;
}
late_initcall_sync(set_guest_clock);
