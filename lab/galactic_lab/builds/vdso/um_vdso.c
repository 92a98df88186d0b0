// SPDX-License-Identifier: GPL-2.0
/*
 * A guest's vDSO that reads clocks from the host. User Mode Linux' own makes a system call of each reading, which is
 * two signals and two changes of process; half of the system calls of Go's programs are such readings.
 *
 * CLOCK_MONOTONIC alone: the guest's CLOCK_REALTIME may be set. It, and addresses that the host's process has no page
 * for yet, are left to the guest's kernel.
 */
#define DISABLE_BRANCH_PROFILING

#include <vdso/gettime.h>
#include <linux/time.h>
#include <asm/unistd.h>
#include "guest_clock.h"

#define SECOND 1000000000ll

static const volatile struct guest_clock guest_clock = { .mark = GUEST_CLOCK_MARK };

static inline long guest_call(long number, unsigned long first, unsigned long second)
{
	long result;

	asm volatile("syscall"
		     : "=a" (result)
		     : "0" (number), "D" (first), "S" (second)
		     : "rcx", "r11", "memory");
	return result;
}

static inline long host_monotonic(struct __kernel_timespec *now)
{
	register unsigned long call asm("r9") = GUEST_CLOCK_CALL;
	long result;

	asm volatile("syscall"
		     : "=a" (result)
		     : "0" (__NR_clock_gettime), "D" (CLOCK_MONOTONIC), "S" (now), "r" (call)
		     : "rcx", "r11", "memory");
	return result;
}

int __vdso_clock_gettime(clockid_t clock, struct __kernel_timespec *now)
{
	long long time;

	if (clock != CLOCK_MONOTONIC || !guest_clock.set || host_monotonic(now))
		return guest_call(__NR_clock_gettime, clock, (unsigned long)now);
	time = now->tv_sec * SECOND + now->tv_nsec + guest_clock.monotonic;
	now->tv_sec = time / SECOND;
	now->tv_nsec = time % SECOND;
	return 0;
}
int clock_gettime(clockid_t, struct __kernel_timespec *)
	__attribute__((weak, alias("__vdso_clock_gettime")));

int __vdso_gettimeofday(struct __kernel_old_timeval *now, struct timezone *zone)
{
	return guest_call(__NR_gettimeofday, (unsigned long)now, (unsigned long)zone);
}
int gettimeofday(struct __kernel_old_timeval *, struct timezone *)
	__attribute__((weak, alias("__vdso_gettimeofday")));

__kernel_old_time_t __vdso_time(__kernel_old_time_t *seconds)
{
	return guest_call(__NR_time, (unsigned long)seconds, 0);
}
__kernel_old_time_t time(__kernel_old_time_t *) __attribute__((weak, alias("__vdso_time")));
