/* Copyright (c) 2026, Stillframe contributors
 * GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* A process that changes its memory in rounds and knows at each what has to be in it.
 * SIGUSR1: go one round on. SIGUSR2: append a line to the file ANSWER, "whole ROUND" or "damaged ROUND ADDRESS".
 * Arguments: ANSWER; the number of pages of the plain area, of which each round writes one in sixteen; "huge" for an area of huge pages too.
 * Started with no descriptor but 0 to 2, in a session of its own. Prints "ready ADDRESS" of the plain area, then closes standard output. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, SPECIAL = 64, HUGE = 2 << 20 };
static char *const PLAIN = (char *)0x100000000000;
static char *const DROPPED = (char *)0x110000000000;   /* from round 1 on its first half is given back, and half of that read again */
static char *const BIG = (char *)0x120000000000;       /* huge pages: the first is given back and read again in round 1, the second written to in round 2 */
static char *const MOVING = (char *)0x130000000000;    /* moved to MOVED in round 2 */
static char *const MOVED = (char *)0x140000000000;
static char *const REPLACED = (char *)0x150000000000;  /* unmapped and mapped anew in round 1 */
static char *const COPIED = (char *)0x160000000000;    /* the program file, private: one page written in round 2 */

static long round_number;
static int huge;

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static char *map(char *address, size_t pages, int fd)
{
	int flags = MAP_PRIVATE | MAP_FIXED_NOREPLACE | (fd < 0 ? MAP_ANONYMOUS : 0);
	char *area = mmap(address, pages * PAGE, PROT_READ | PROT_WRITE, flags, fd, 0);
	if (area == MAP_FAILED)
		fail("mmap");
	return area;
}

static void fill(char *page, long content)
{
	for (size_t at = 0; at < PAGE; at += sizeof content)
		memcpy(page + at, &content, sizeof content);
}

static int holds(const char *page, long content)
{
	for (size_t at = 0; at < PAGE; at += sizeof content)
		if (memcmp(page + at, &content, sizeof content))
			return 0;
	return 1;
}

/* What page NUMBER of the plain area holds: who it is, and the last round that wrote it. */
static long plain_content(long number)
{
	long since = (round_number - number % 16) & 15;
	long written = round_number - since;
	return number << 16 | (written > 0 ? written : 0) << 1 | 1;
}

static const char *damage(long pages)
{
	for (long n = 0; n < pages; n++)
		if (!holds(PLAIN + n * PAGE, plain_content(n)))
			return PLAIN + n * PAGE;
	for (long n = 0; n < SPECIAL; n++) {
		if (!holds(DROPPED + n * PAGE, round_number >= 1 && n < SPECIAL / 2 ? 0 : n + 1))
			return DROPPED + n * PAGE;
		if (!holds((round_number >= 2 ? MOVED : MOVING) + n * PAGE, n + 2))
			return MOVED + n * PAGE;
		if (!holds(REPLACED + n * PAGE, round_number >= 1 ? 0 : n + 3))
			return REPLACED + n * PAGE;
	}
	for (long n = 0; huge && n < 2 * HUGE / PAGE; n++) {
		long content = n < HUGE / PAGE ? (round_number >= 1 ? 0 : 7) : (round_number >= 2 && n == HUGE / PAGE + 5 ? 9 : 8);
		if (!holds(BIG + n * PAGE, content))
			return BIG + n * PAGE;
	}
	if (round_number >= 2 && !holds(COPIED, 11))
		return COPIED;
	return NULL;
}

static void start(long pages)
{
	map(PLAIN, pages, -1);
	madvise(PLAIN, pages * PAGE, MADV_NOHUGEPAGE); /* soft-dirty bits tell of a huge page only as a whole */
	for (long n = 0; n < pages; n++)
		fill(PLAIN + n * PAGE, plain_content(n));
	map(DROPPED, SPECIAL, -1);
	map(MOVING, SPECIAL, -1);
	map(REPLACED, SPECIAL, -1);
	for (long n = 0; n < SPECIAL; n++) {
		fill(DROPPED + n * PAGE, n + 1);
		fill(MOVING + n * PAGE, n + 2);
		fill(REPLACED + n * PAGE, n + 3);
	}
	if (huge) {
		map(BIG, 2 * HUGE / PAGE, -1);
		madvise(BIG, 2 * HUGE, MADV_HUGEPAGE);
		for (long n = 0; n < 2 * HUGE / PAGE; n++)
			fill(BIG + n * PAGE, n < HUGE / PAGE ? 7 : 8);
	}
	int fd = open("/proc/self/exe", O_RDONLY);
	map(COPIED, 2, fd);
	close(fd);
}

static void next_round(long pages)
{
	round_number++;
	for (long n = round_number % 16; n < pages; n += 16)
		fill(PLAIN + n * PAGE, plain_content(n));
	if (round_number == 1) {
		volatile char sum = 0;
		if (madvise(DROPPED, SPECIAL / 2 * PAGE, MADV_DONTNEED) || (huge && madvise(BIG, HUGE, MADV_DONTNEED)))
			fail("madvise");
		for (long n = 0; n < SPECIAL / 4; n++)
			sum += DROPPED[n * PAGE];
		if (huge)
			sum += BIG[0];
		munmap(REPLACED, SPECIAL * PAGE);
		map(REPLACED, SPECIAL, -1);
	}
	if (round_number == 2) {
		if (mremap(MOVING, SPECIAL * PAGE, SPECIAL * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, MOVED) != MOVED)
			fail("mremap");
		if (huge)
			fill(BIG + HUGE + 5 * PAGE, 9);
		fill(COPIED, 11);
	}
}

static void answer(const char *path, long pages)
{
	char line[64];
	const char *where = damage(pages);
	int length = where ? snprintf(line, sizeof line, "damaged %ld %p\n", round_number, (const void *)where)
	                   : snprintf(line, sizeof line, "whole %ld\n", round_number);
	int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (fd < 0 || write(fd, line, length) != length)
		fail("answer");
	close(fd);
}

int main(int argc, char **argv)
{
	long pages = argc > 2 ? atol(argv[2]) : 2048;
	int number;
	sigset_t set;

	huge = argc > 3 && strcmp(argv[3], "huge") == 0;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
	start(pages);
	printf("ready %p\n", (void *)PLAIN);
	fflush(stdout);
	dup2(STDERR_FILENO, STDOUT_FILENO);
	while (sigwait(&set, &number) == 0) {
		if (number == SIGUSR1)
			next_round(pages);
		else
			answer(argv[1], pages);
	}
	return 1;
}
