/* Copyright (c) 2026, Stillframe contributors
 * GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* Writes to shared memory without a pause, in an order that is known: by a mapping, by write(2), as a child that ends at once, and
 * punches holes. "check": look at all pages. "grow": let the file be longer. "more": have another object. */
#include "victim.h"

#define PAGES 2048ul
#define EACH 64
#define CHILD_STEPS 16
#define FIRST_STEPS (1ul << 16)
#define HOT 256ul /* pages that it writes to after its first steps */

struct progress {
	volatile uint64_t steps;
	uint64_t pages;
	char *areas[2];
	int fd;
};

static struct progress *progress;
static char *more;

/* Do step NUMBER to AREAS; the second of them is that of file FD, or of none. */
static void do_step(uint64_t number, char *const areas[2], int fd)
{
	uint64_t choice = word(11, number), value = word(13, number);
	uint64_t page = choice % (number < FIRST_STEPS ? PAGES : HOT), offset = page * PAGE + 8 * (choice >> 32 & 511);
	unsigned how = choice >> 48 & 7;

	if (how == 0 && fd >= 0)
		MUST(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, page * PAGE, PAGE));
	else if (how == 0)
		memset(areas[1] + page * PAGE, 0, PAGE);
	else if (how == 1 && fd >= 0)
		MUST(pwrite(fd, &value, sizeof(value), offset));
	else
		*(uint64_t *)(areas[how == 1 ? 1 : how & 1] + offset) = value;
}

static void steps(int count)
{
	while (count--) {
		do_step(progress->steps, progress->areas, progress->fd);
		progress->steps++;
	}
}

/* Play all steps again, into memory of its own, and compare. No step is half done: whoever does one is waited for. */
static void check_all(void)
{
	char *played[2];

	for (int i = 0; i < 2; i++)
		played[i] = MUST(mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	for (uint64_t number = 0; number < progress->steps; number++)
		do_step(number, played, -1);
	for (int i = 0; i < 2; i++) {
		for (uint64_t page = 0; page < PAGES; page++)
			if (memcmp(progress->areas[i] + page * PAGE, played[i] + page * PAGE, PAGE))
				problem("page %lu of object %d is wrong", page, i);
		MUST(munmap(played[i], PAGES * PAGE));
	}
	CHECK((uint64_t)MUST(lseek(progress->fd, 0, SEEK_END)) == progress->pages * PAGE + 100);
	if (more)
		check_area("the other object", more, 32 * PAGE, 17);
}

static void obey(const char *line)
{
	if (!strcmp(line, "grow")) {
		progress->pages *= 2;
		MUST(ftruncate(progress->fd, progress->pages * PAGE + 100));
	} else if (!strcmp(line, "more")) {
		more = MUST(mmap(NULL, 32 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
		fill(more, 32 * PAGE, 17);
	} else {
		check_all();
	}
}

static void work(void)
{
	pid_t child;

	steps(EACH);
	child = MUST(fork());
	if (!child) {
		steps(CHILD_STEPS);
		_exit(0);
	}
	MUST(waitpid(child, NULL, 0));
}

int main(int argc, char **argv)
{
	begin(argv);
	progress = MUST(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
	progress->pages = PAGES;
	progress->fd = MUST(memfd_create("written", 0));
	MUST(ftruncate(progress->fd, PAGES * PAGE + 100));
	progress->areas[0] = MUST(mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
	progress->areas[1] = MUST(mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, progress->fd, 0));
	steps(FIRST_STEPS);
	work_on(work, obey);
}
