/* Copyright (c) 2026, Stillframe contributors
 * GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* Guard regions in every kind of mapping. "check": what is guarded cannot be touched, all else has its content. "change":
 * lift some, and write there; install others over content. With the argument
 * "unlocked" none of it is locked. */
#include "victim.h"
#include <sys/uio.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif
#define PAGES 12

enum { ANONYMOUS, WIPED, FILE_PRIVATE, FILE_SHARED, SHARED, READ_ONLY, LOCKED, AREAS };

static char *areas[AREAS];
static uint64_t content[AREAS][PAGES]; /* the seed of each page, 0 for an empty one, GUARDED */
static uint64_t generation = 1;

#define GUARDED UINT64_MAX

static void guard(int area, int first, int count)
{
	MUST(madvise(areas[area] + first * PAGE, count * PAGE, MADV_GUARD_INSTALL));
	for (int page = first; page < first + count; page++)
		content[area][page] = GUARDED;
}

static void write_page(int area, int page)
{
	content[area][page] = ++generation;
	fill(areas[area] + page * PAGE, PAGE, generation);
}

static void lift(int area, int first, int count)
{
	MUST(madvise(areas[area] + first * PAGE, count * PAGE, MADV_GUARD_REMOVE));
	for (int page = first; page < first + count; page++)
		content[area][page] = 0;
}

/* Map PAGES pages that are no neighbour's, and write to all but the last two. */
static void make(int area, int flags, int fd)
{
	areas[area] = MUST(mmap(NULL, (PAGES + 2) * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) + PAGE;
	MUST(mmap(areas[area], PAGES * PAGE, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0));
	for (int page = 0; page < PAGES - 2; page++)
		write_page(area, page);
}

static void make_all(bool locked)
{
	int fd = MUST(open(in_directory("file"), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
	int other = MUST(open(in_directory("other"), O_RDWR | O_CREAT | O_CLOEXEC, 0600));

	MUST(ftruncate(fd, PAGES * PAGE));
	MUST(ftruncate(other, PAGES * PAGE));
	make(ANONYMOUS, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	make(WIPED, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	make(FILE_PRIVATE, MAP_PRIVATE, fd);
	make(FILE_SHARED, MAP_SHARED, other);
	make(SHARED, MAP_SHARED | MAP_ANONYMOUS, -1);
	make(READ_ONLY, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	make(LOCKED, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	for (int area = 0; area < AREAS; area++) {
		if (madvise(areas[area], PAGE, MADV_GUARD_INSTALL)) /* of a file, and of shared memory: Linux 6.15 */
			continue;
		content[area][0] = GUARDED;
		guard(area, 3, 2);
		guard(area, 7, 1);
		guard(area, PAGES - 1, 1);
	}
	MUST(madvise(areas[WIPED], PAGES * PAGE, MADV_WIPEONFORK));
	MUST(mprotect(areas[READ_ONLY], PAGES * PAGE, PROT_READ));
	if (locked)
		MUST(mlock2(areas[LOCKED], PAGES * PAGE, MLOCK_ONFAULT));
}

static bool is_guarded(const char *page)
{
	char byte;
	struct iovec to = {&byte, 1}, from = {(void *)page, 1};

	return process_vm_readv(getpid(), &to, 1, &from, 1, 0) == -1 && errno == EFAULT;
}

static void check(void)
{
	for (int area = 0; area < AREAS; area++)
		for (int page = 0; page < PAGES; page++) {
			const char *at = areas[area] + page * PAGE;

			if (is_guarded(at) != (content[area][page] == GUARDED))
				problem("area %d, page %d: guarded %d", area, page, is_guarded(at));
			else if (content[area][page] && content[area][page] != GUARDED && wrong_at(at, PAGE, content[area][page]) >= 0)
				problem("area %d, page %d has other content", area, page);
			else if (!content[area][page] && memcmp(at, (char[PAGE]){0}, PAGE))
				problem("area %d, page %d is not empty", area, page);
		}
}

static void change(void)
{
	lift(ANONYMOUS, 3, 1);
	lift(ANONYMOUS, 7, 1);
	write_page(ANONYMOUS, 7);
	guard(ANONYMOUS, 5, 1);
	guard(ANONYMOUS, PAGES - 2, 1);
	write_page(ANONYMOUS, 6);
	guard(WIPED, 0, PAGES);
	lift(READ_ONLY, 0, 1);
}

static void obey(const char *line)
{
	if (!strcmp(line, "change"))
		change();
	check();
}

int main(int argc, char **argv)
{
	begin(argv);
	make_all(argc < 3 || strcmp(argv[2], "unlocked"));
	serve(obey);
}
