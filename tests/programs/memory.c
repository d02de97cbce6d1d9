/* Copyright (c) 2026, Stillframe contributors
 * GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* Every common kind of mapping, each with content that is known word by word. "check": look at all. "change N": write a
 * new generation into a part of each, drop, move, protect and split some. "fork": see what a child gets. */
#include "victim.h"

#define AREA (64 * PAGE)
#define HEAP (24ul << 20)
#define DEPTH 200
#define FRAME 600

struct area {
	const char *name;
	char *at;
	size_t size;
	uint64_t seed;
	int hidden; /* PROT_NONE between checks */
};

enum { ANONYMOUS, SHARED, PRIVATE_FILE, SHARED_FILE, NONE, READ_ONLY, DONTFORK, WIPEONFORK, GROWSDOWN, LOCKED, MOVED, HEAP_AREA, EXECUTABLE, AREAS };

static struct area areas[AREAS] = {
	{ .name = "anonymous" }, { .name = "shared anonymous" }, { .name = "private file" }, { .name = "shared file" },
	{ .name = "PROT_NONE", .hidden = 1 }, { .name = "read-only" }, { .name = "MADV_DONTFORK" }, { .name = "MADV_WIPEONFORK" },
	{ .name = "MAP_GROWSDOWN" }, { .name = "locked" }, { .name = "moved" }, { .name = "heap" }, { .name = "executable" },
};
static char *dropped, *churned, *shared_again, *huge, *sparse, *read_file, *data_behind_end;
static uint64_t generation;
static uint64_t *frames[DEPTH + 1];

static char *map(int protection, int flags, int fd, off_t offset)
{
	return MUST(mmap(NULL, AREA, protection, flags, fd, offset));
}

static int file(const char *name, uint64_t seed)
{
	int fd = MUST(open(in_directory(name), O_RDWR | O_CREAT | O_TRUNC, 0600));
	static char content[AREA];

	fill(content, AREA, seed);
	MUST(write(fd, content, AREA));
	return fd;
}

static void set(int index, char *at, size_t size)
{
	areas[index].at = at;
	areas[index].size = size;
	areas[index].seed = index + 1;
	fill(at, size, index + 1);
}

static void make(void)
{
	const int rw = PROT_READ | PROT_WRITE, private = MAP_PRIVATE | MAP_ANONYMOUS;
	int fd;
	char *heap;

	set(ANONYMOUS, map(rw, private, -1, 0), AREA);
	set(SHARED, map(rw, MAP_SHARED | MAP_ANONYMOUS, -1, 0), AREA);
	fd = file("private", 77);
	read_file = map(PROT_READ, MAP_PRIVATE, fd, 0);
	areas[PRIVATE_FILE].at = map(rw, MAP_PRIVATE, fd, 0);
	areas[PRIVATE_FILE].size = AREA / 2;
	areas[PRIVATE_FILE].seed = PRIVATE_FILE + 1;
	fill(areas[PRIVATE_FILE].at, AREA / 2, PRIVATE_FILE + 1); /* the other half stays the file's */
	close(fd);
	fd = file("shared", 78);
	set(SHARED_FILE, map(rw, MAP_SHARED, fd, 0), AREA);
	shared_again = MUST(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 3 * PAGE));
	close(fd);
	set(NONE, map(rw, private, -1, 0), AREA);
	MUST(mprotect(areas[NONE].at, AREA, PROT_NONE));
	set(READ_ONLY, map(rw, private, -1, 0), AREA);
	MUST(mprotect(areas[READ_ONLY].at, AREA, PROT_READ));
	set(DONTFORK, map(rw, private, -1, 0), AREA);
	MUST(madvise(areas[DONTFORK].at, AREA, MADV_DONTFORK));
	set(WIPEONFORK, map(rw, private, -1, 0), AREA);
	MUST(madvise(areas[WIPEONFORK].at, AREA, MADV_WIPEONFORK));
	set(GROWSDOWN, map(rw, private | MAP_GROWSDOWN, -1, 0), AREA);
	set(LOCKED, map(rw, private, -1, 0), AREA);
	MUST(mlock(areas[LOCKED].at, AREA));
	set(MOVED, map(rw, private, -1, 0), AREA);
	heap = MUST(sbrk(HEAP));
	set(HEAP_AREA, heap, HEAP);
	set(EXECUTABLE, map(rw | PROT_EXEC, private, -1, 0), AREA);
	dropped = map(rw, private, -1, 0);
	fill(dropped, AREA, 99);
	churned = map(rw, private, -1, 0);
	for (size_t page = 0; page < AREA / PAGE; page++) {
		churned[page * PAGE] = page;
		MUST(mprotect(churned + page * PAGE, PAGE, page % 2 ? PROT_READ : PROT_NONE));
	}
	huge = MUST(mmap(NULL, 8ul << 20, rw, private, -1, 0));
	madvise(huge, 8ul << 20, MADV_HUGEPAGE);
	fill(huge, 8ul << 20, 55);
	sparse = MUST(mmap(NULL, 1ul << 40, rw, private | MAP_NORESERVE, -1, 0));
	sparse[1ul << 39] = 7;
	fd = MUST(open(in_directory("short"), O_RDWR | O_CREAT | O_TRUNC, 0600));
	MUST(write(fd, "short", 5));
	data_behind_end = MUST(mmap(NULL, 4 * PAGE, rw, MAP_PRIVATE, fd, 0)); /* three pages behind the end of the file */
	close(fd);
}

static void show(struct area *area, int hide)
{
	if (area->hidden)
		MUST(mprotect(area->at, area->size, hide ? PROT_NONE : PROT_READ));
}

static void check_others(void)
{
	CHECK(!memcmp(areas[PRIVATE_FILE].at + AREA / 2, read_file + AREA / 2, AREA / 2));
	check_area("file that is only read", read_file, AREA, 77);
	CHECK(!memcmp(shared_again, areas[SHARED_FILE].at + 3 * PAGE, PAGE));
	for (size_t page = 0; page < AREA / PAGE; page++)
		if (generation && page % 3 == 0)
			CHECK(dropped[page * PAGE] == 0);
		else
			CHECK(*(uint64_t *)(dropped + page * PAGE) == word(99, page * PAGE / 8));
	for (size_t page = 1; page < AREA / PAGE; page += 2)
		CHECK(churned[page * PAGE] == (char)(page + generation * (page % 4 == 1)));
	check_area("huge pages", huge, 8ul << 20, 55);
	CHECK(sparse[1ul << 39] == 7 && sparse[1ul << 38] == 0);
	CHECK(!strcmp(data_behind_end, "short"));
}

static void check_all(void)
{
	for (struct area *area = areas; area < areas + AREAS; area++) {
		show(area, 0);
		check_area(area->name, area->at, area->size, area->seed);
		show(area, 1);
	}
	check_others();
	for (int depth = 0; depth <= DEPTH; depth++)
		check_area("stack", frames[depth], FRAME * 8, 5000 + depth);
}

/* Write the next generation into every area; what is only mapped for reading stays as it is. */
static void change(void)
{
	generation++;
	for (int index = 0; index < AREAS; index++) {
		struct area *area = areas + index;

		if (index == READ_ONLY || index == SHARED_FILE) /* no dump holds the file */
			continue;
		if (area->hidden)
			MUST(mprotect(area->at, area->size, PROT_READ | PROT_WRITE));
		area->seed = index + 1 + 1000 * generation;
		fill(area->at, area->size, area->seed);
		show(area, 1);
	}
	for (size_t page = 0; page < AREA / PAGE; page += 3)
		MUST(madvise(dropped + page * PAGE, PAGE, MADV_DONTNEED));
	for (size_t page = 1; page < AREA / PAGE; page += 4) {
		MUST(mprotect(churned + page * PAGE, PAGE, PROT_READ | PROT_WRITE));
		churned[page * PAGE] = page + generation;
		MUST(mprotect(churned + page * PAGE, PAGE, PROT_READ));
	}
	areas[MOVED].at = MUST(mremap(areas[MOVED].at, AREA, AREA, MREMAP_MAYMOVE | MREMAP_FIXED, map(PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)));
}

static void check_fork(void)
{
	int status;
	pid_t child = fork();
	unsigned char there;

	if (!child) {
		long wiped = 0;

		for (size_t at = 0; at < AREA; at++)
			wiped |= areas[WIPEONFORK].at[at];
		_exit((wiped ? 1 : 0) | (mincore(areas[DONTFORK].at, PAGE, &there) == 0 ? 2 : 0));
	}
	MUST(waitpid(child, &status, 0));
	CHECK(status == 0);
}

static void obey(const char *line)
{
	if (!strcmp(line, "change"))
		change();
	else if (!strcmp(line, "fork"))
		check_fork();
	else
		check_all();
}

/* Leave DEPTH frames of a page and more on the stack. */
static void deep(int depth)
{
	uint64_t frame[FRAME];

	fill(frame, sizeof(frame), 5000 + depth);
	frames[depth] = frame;
	if (depth)
		deep(depth - 1);
	else
		serve(obey);
	__asm__ volatile("" ::"r"(frame) : "memory"); /* so that the frame stays until here */
}

int main(int argc, char **argv)
{
	begin(argv);
	make();
	deep(DEPTH);
}
