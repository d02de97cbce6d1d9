/* Copyright (c) 2026, Stillframe contributors
 * GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* A parent, its workers and one of their own children, which have most pages in common (fork(2)) and each some that are
 * other, or that only it has, or has not. "check": each looks at all that it has. "change": each writes some more. */
#include "victim.h"

#define WORKERS 4
#define COMMON (2048 * PAGE)
#define SMALL (32 * PAGE)

enum { MASTER = WORKERS };

static char *common, *file, *dropped, *unforked, *read_only, *partly, *heap;
static uint64_t changes; /* of this process */
static int who = MASTER, shape = MASTER; /* the worker that it is, and the one whose memory it began with */
static int orders[WORKERS][2], replies[WORKERS][2];

static uint64_t own(int number)
{
	return 1000 + 100 * shape + number;
}

/* What the latest change has left in the first word of a page. */
static uint64_t first_word(void)
{
	return changes << 8 | who;
}

static void make(void)
{
	int fd = MUST(open(in_directory("file"), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
	char *space = MUST(mmap(NULL, COMMON + 16 * SMALL, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));

	MUST(ftruncate(fd, SMALL));
	common = MUST(mmap(space + PAGE, COMMON, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	space += COMMON + 2 * PAGE;
	file = MUST(mmap(space, SMALL, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, 0));
	dropped = MUST(mmap(space + SMALL + PAGE, SMALL, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	unforked = MUST(mmap(dropped + SMALL + PAGE, SMALL, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	read_only = MUST(mmap(unforked + SMALL + PAGE, SMALL, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	partly = MUST(mmap(read_only + SMALL + PAGE, SMALL, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	fill(common, COMMON, 1);
	fill(file, SMALL / 2, 2);
	fill(dropped, SMALL, 3);
	fill(unforked, SMALL, 4);
	fill(read_only, SMALL, 5);
	fill(partly, SMALL, 6);
	MUST(madvise(unforked, SMALL, MADV_DONTFORK));
	MUST(madvise(read_only, SMALL, MADV_WIPEONFORK));
	MUST(mprotect(read_only, SMALL, PROT_READ));
	heap = MUST(sbrk(SMALL));
	fill(heap, SMALL, 7);
}

/* Become different from the parent: other content, less memory, more of it, another protection. */
static void differ(void)
{
	fill(common + shape * PAGE, PAGE, own(1));
	fill(file + SMALL / 2 - PAGE, 2 * PAGE, own(2));
	MUST(madvise(dropped + shape * PAGE, 8 * PAGE, MADV_DONTNEED));
	MUST(munmap(partly, 8 * PAGE));
	MUST(mprotect(partly + 16 * PAGE, 8 * PAGE, PROT_READ));
	fill(MUST(sbrk(SMALL)), SMALL, own(3));
}

static void check_page(int page)
{
	const uint64_t *words = (void *)(common + page * PAGE);
	bool changed = changes && page == (int)(COMMON / PAGE) - 1 - who;
	uint64_t first = changed ? first_word() : word(1, page * (PAGE / 8));

	if ((who != MASTER && page == shape) || (!who && !page))
		return;
	for (size_t i = 0; i < PAGE / 8; i++)
		if (words[i] != (i ? word(1, page * (PAGE / 8) + i) : first)) {
			problem("process %d: page %d of the common memory is wrong at word %zu", who, page, i);
			return;
		}
}

static void check(void)
{
	for (int page = 0; page < (int)(COMMON / PAGE); page++)
		check_page(page);
	if (who == MASTER) {
		check_area("memory that no child has", unforked, SMALL, 4);
		check_area("memory that is empty in a child", read_only, SMALL, 5);
		check_area("memory", dropped, SMALL, 3);
		check_area("pages of a file", file, SMALL / 2, 2);
		check_area("memory that a child has a part of", partly, SMALL, 6);
	} else {
		check_area("an own page", common + shape * PAGE, PAGE, own(1));
		CHECK(!memcmp(read_only, (char[SMALL]){0}, SMALL));
		CHECK(!memcmp(dropped + shape * PAGE, (char[8 * PAGE]){0}, 8 * PAGE));
		CHECK(((uint64_t *)(dropped + (shape + 8) * PAGE))[0] == word(3, (shape + 8) * (PAGE / 8)));
		CHECK(((uint64_t *)(partly + 8 * PAGE))[9] == word(6, 8 * (PAGE / 8) + 9));
		CHECK(((uint64_t *)(partly + 24 * PAGE))[9] == word(6, 24 * (PAGE / 8) + 9));
		check_area("own pages of a file", file + SMALL / 2 - PAGE, 2 * PAGE, own(2));
		check_area("own heap", (char *)sbrk(0) - SMALL, SMALL, own(3));
	}
	if (!who)
		check_area("a page of a grandchild's own", common, PAGE, 9);
	CHECK(!memcmp(file + SMALL / 2 + PAGE, (char[PAGE]){0}, PAGE));
	check_area("the heap", heap, SMALL, 7);
}

static void change(void)
{
	changes++;
	*(uint64_t *)(common + COMMON - (who + 1) * PAGE) = first_word();
}

static void work(int number)
{
	char order;

	who = shape = number;
	differ();
	if (number == 1 && MUST(fork()) == 0) {
		who = 0;
		fill(common, PAGE, 9);
	}
	for (;;) {
		MUST(read(orders[who][0], &order, 1));
		problems[0] = 0;
		if (order == 'c')
			change();
		check();
		MUST(write(replies[who][1], problems, sizeof(problems)));
	}
}

static void obey(const char *line)
{
	static char said[sizeof(problems)];

	if (!strcmp(line, "change"))
		change();
	check();
	for (int number = 0; number < WORKERS; number++) {
		MUST(write(orders[number][1], !strcmp(line, "change") ? "c" : "l", 1));
		for (size_t got = 0; got < sizeof(said);)
			got += MUST(read(replies[number][0], said + got, sizeof(said) - got));
		strncat(problems, said, sizeof(problems) - strlen(problems) - 1);
	}
}

int main(int argc, char **argv)
{
	begin(argv);
	make();
	for (int number = 0; number < WORKERS; number++) {
		MUST(pipe(orders[number]));
		MUST(pipe(replies[number]));
	}
	for (int number = 1; number < WORKERS; number++)
		if (MUST(fork()) == 0)
			work(number);
	obey("check"); /* all of them are there then */
	serve(obey);
}
