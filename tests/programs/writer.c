/* Copyright (c) 2026, Stillframe contributors
 * GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* Writes to memory without a pause, in an order that is known, and knows at any moment what every page must hold.
 * "check": look at all pages. "close", "exec", "fork", "drop", "move", "protect": do what trackers have to bear. */
#include "victim.h"

#define PAGES 2048ul
#define EACH 64

struct progress {
	uint64_t steps, dropped_at;
};

static volatile struct progress *progress;
static char *area;
static pid_t child;
static char **arguments;

static uint64_t *slot(uint64_t step)
{
	uint64_t choice = word(7, step);

	return (uint64_t *)(area + choice % PAGES * PAGE + 8 * (choice >> 32 & 255));
}

static void step(void)
{
	uint64_t number = progress->steps;

	*slot(number) = word(9, number);
	progress->steps = number + 1;
}

/* Play all steps again, into memory of its own, and compare. The page that was dropped lost what was written before. */
static void check_all(void)
{
	char *real = area, *played = MUST(mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	uint64_t last = progress->steps, in_flight;

	area = played;
	for (uint64_t number = 0; number < last; number++) {
		if (number == progress->dropped_at && number)
			memset(area, 0, PAGES / 2 * PAGE);
		*slot(number) = word(9, number);
	}
	if (progress->dropped_at == last && last)
		memset(area, 0, PAGES / 2 * PAGE);
	in_flight = (char *)slot(last) - area;
	area = real;
	*(uint64_t *)(played + in_flight) = *(uint64_t *)(area + in_flight);
	for (uint64_t page = 0; page < PAGES; page++)
		if (memcmp(area + page * PAGE, played + page * PAGE, PAGE))
			problem("page %lu is wrong", page);
	MUST(munmap(played, PAGES * PAGE));
}

static void drop(void)
{
	MUST(madvise(area, PAGES / 2 * PAGE, MADV_DONTNEED));
	progress->dropped_at = progress->steps;
}

static void move(void)
{
	char *target = MUST(mmap(NULL, PAGES * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));

	area = MUST(mremap(area, PAGES * PAGE, PAGES * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target));
}

static void protect(void)
{
	for (uint64_t page = 0; page < PAGES; page += 7)
		MUST(mprotect(area + page * PAGE, PAGE, PROT_READ));
	MUST(mprotect(area, PAGES * PAGE, PROT_READ | PROT_WRITE));
}

/* The child goes on writing by itself; it answers no questions but ends with 0 when all is right, at SIGTERM. */
static volatile sig_atomic_t told_to_end;

static void end(int signo)
{
	told_to_end = 1;
}

static void split(void)
{
	child = MUST(fork());
	if (child)
		return;
	signal(SIGTERM, end);
	while (!told_to_end)
		step();
	problems[0] = 0;
	check_all();
	_exit(problems[0] ? 1 : 0);
}

static void end_child(void)
{
	int status;

	MUST(kill(child, SIGTERM));
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	child = 0;
}

static void obey(const char *line)
{
	if (!strcmp(line, "close"))
		for (int fd = 0; fd < 1024; fd++)
			fd != asks && fd != answers ? close(fd) : 0;
	else if (!strcmp(line, "exec"))
		MUST(execv("/proc/self/exe", arguments));
	else if (!strcmp(line, "fork"))
		split();
	else if (!strcmp(line, "end child"))
		end_child();
	else if (!strcmp(line, "drop"))
		drop();
	else if (!strcmp(line, "move"))
		move();
	else if (!strcmp(line, "protect"))
		protect();
	else
		check_all();
}

static void steps(void)
{
	for (int i = 0; i < EACH; i++)
		step();
}

int main(int argc, char **argv)
{
	arguments = argv;
	begin(argv);
	progress = MUST(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	area = MUST(mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	work_on(steps, obey);
}
