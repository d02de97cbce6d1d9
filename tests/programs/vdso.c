/* Copyright (c) 2026, Stillframe contributors
 * GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* Asks the vDSO for the time, by the C library and, told "time OFFSET" or "getcpu OFFSET", at that place of it. "spin": a thread
 * asks on and on. "unmap": without a vDSO from then on. */
#include "victim.h"
#include <sys/auxv.h>

static long spun;

static void *spin(void *unused)
{
	struct timespec now, last = { 0 };

	(void)unused;
	for (;; spun++) {
		clock_gettime(CLOCK_MONOTONIC, &now);
		if (now.tv_sec < last.tv_sec || now.tv_sec == last.tv_sec && now.tv_nsec < last.tv_nsec)
			abort();
		last = now;
	}
	return NULL;
}

static long distance(long one, long other)
{
	return labs(one - other);
}

static void check_library(void)
{
	struct timespec fast, slow, resolution;
	struct timeval day;
	time_t now = time(NULL);

	CHECK(syscall(SYS_clock_gettime, CLOCK_REALTIME, &slow) == 0);
	CHECK(distance(now, slow.tv_sec) < 60);
	for (int clock = CLOCK_REALTIME; clock <= CLOCK_BOOTTIME; clock++) {
		if (clock == CLOCK_PROCESS_CPUTIME_ID || clock == CLOCK_THREAD_CPUTIME_ID)
			continue;
		CHECK(clock_gettime(clock, &fast) == 0 && syscall(SYS_clock_gettime, clock, &slow) == 0);
		CHECK(distance(fast.tv_sec, slow.tv_sec) < 60 && slow.tv_sec);
	}
	CHECK(gettimeofday(&day, NULL) == 0 && distance(day.tv_sec, now) < 60);
	CHECK(clock_getres(CLOCK_MONOTONIC, &resolution) == 0 && resolution.tv_nsec > 0);
	CHECK(sched_getcpu() >= 0);
}

static void *function(const char *offset)
{
	return (char *)getauxval(AT_SYSINFO_EHDR) + strtoul(offset, NULL, 0);
}

static void check_time(long (*asked)(long *))
{
	long now = 0;

	CHECK(distance(asked(&now), syscall(SYS_time, NULL)) < 60 && distance(now, syscall(SYS_time, NULL)) < 60);
}

static void check_cpu(long (*asked)(unsigned *, unsigned *, void *))
{
	unsigned cpu = -1, node = -1;

	CHECK(asked(&cpu, &node, NULL) == 0 && cpu < 8192 && node < 1024);
}

static void unmap(void)
{
	unsigned long start, end;
	char line[512];
	FILE *maps = fopen("/proc/self/maps", "r");
	unsigned long areas[3][2];
	int count = 0;

	while (fgets(line, sizeof(line), maps))
		if ((strstr(line, "[vdso]") || strstr(line, "[vvar")) && count < 3 && sscanf(line, "%lx-%lx", &start, &end) == 2)
			areas[count][0] = start, areas[count++][1] = end - start;
	fclose(maps);
	while (count--)
		MUST(munmap((void *)areas[count][0], areas[count][1]));
}

static void obey(const char *question)
{
	pthread_t thread;

	if (!strcmp(question, "spin"))
		CHECK(pthread_create(&thread, NULL, spin, NULL) == 0);
	else if (!strcmp(question, "unmap"))
		unmap();
	else if (!strncmp(question, "time ", 5))
		check_time(function(question + 5));
	else if (!strncmp(question, "getcpu ", 7))
		check_cpu(function(question + 7));
	else if (strcmp(question, "nothing"))
		check_library();
}

int main(int argc, char **argv)
{
	(void)argc;
	begin(argv);
	serve(obey);
}
