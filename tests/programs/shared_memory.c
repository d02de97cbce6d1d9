/* Copyright (c) 2026, Stillframe contributors
 * GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* Memory that is a file, seen in every way: by a parent and its child, shared and privately, mapped and open. "check": what
 * is written through one view appears in the others. */
#include "victim.h"
#include <linux/memfd.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x10
#endif
#define AREA (8 * PAGE)
#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL)

enum { ANONYMOUS_FD = 40, MEMFD, MEMFD_AGAIN, MEMFD_READ, SEALED, PLAIN, EMPTY };

static char *anonymous, *anonymous_private, *anonymous_again, *memory, *memory_private, *sealed, *hole;
static uint64_t turn;
static int orders[2], replies[2];

static void hold(int fd, int as)
{
	MUST(fd);
	MUST(dup2(fd, as));
	close(fd);
}

static void make_anonymous(void)
{
	char path[64];

	anonymous = MUST(mmap(NULL, AREA, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
	fill(anonymous, AREA, 1);
	snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (long)anonymous, (long)anonymous + AREA);
	hold(open(path, O_RDWR), ANONYMOUS_FD);
	anonymous_private = MUST(mmap(NULL, AREA, PROT_READ | PROT_WRITE, MAP_PRIVATE, ANONYMOUS_FD, 0));
	anonymous_private[PAGE] = 'P';
	anonymous_again = MUST(mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, ANONYMOUS_FD, 2 * PAGE));
	hole = MUST(mmap(NULL, 1ul << 24, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
	hole[1ul << 23] = 'h';
}

static void make_memfd(void)
{
	char path[64];

	hold(memfd_create("name with (deleted)", MFD_CLOEXEC | MFD_ALLOW_SEALING), MEMFD);
	MUST(ftruncate(MEMFD, AREA - 100));
	memory = MUST(mmap(NULL, AREA, PROT_READ | PROT_WRITE, MAP_SHARED, MEMFD, 0));
	fill(memory, AREA - 104, 2);
	MUST(lseek(MEMFD, 123, SEEK_SET));
	MUST(fchmod(MEMFD, 0640));
	MUST(fchown(MEMFD, 17, 18));
	MUST(dup2(MEMFD, MEMFD_AGAIN));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", MEMFD);
	hold(open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC), MEMFD_READ);
	MUST(fcntl(MEMFD_READ, F_SETFD, FD_CLOEXEC));
	MUST(lseek(MEMFD_READ, 7, SEEK_SET));
	memory_private = MUST(mmap(NULL, AREA, PROT_READ | PROT_WRITE, MAP_PRIVATE, MEMFD_READ, 0));
	memory_private[3 * PAGE] = 'p';
	hold(memfd_create("sealed", MFD_ALLOW_SEALING), SEALED);
	MUST(ftruncate(SEALED, AREA));
	sealed = MUST(mmap(NULL, AREA, PROT_READ | PROT_WRITE, MAP_SHARED, SEALED, 0));
	fill(sealed, AREA, 3);
	MUST(fcntl(SEALED, F_ADD_SEALS, SEALS));
	hold(memfd_create("plain", 0), PLAIN);
	MUST(write(PLAIN, "plain", 5));
	hold(memfd_create("", 0), EMPTY);
}

static void check_anonymous(void)
{
	turn++;
	((uint64_t *)anonymous)[2 * PAGE / 8] = turn;
	CHECK(*(uint64_t *)anonymous_again == turn);
	CHECK(((uint64_t *)anonymous_private)[2 * PAGE / 8] == turn);
	CHECK(anonymous_private[PAGE] == 'P' && anonymous[PAGE] == (char)word(1, PAGE / 8));
	CHECK(pwrite(ANONYMOUS_FD, &turn, 8, 3 * PAGE) == 8 && ((uint64_t *)anonymous)[3 * PAGE / 8] == turn);
	check_area("anonymous", anonymous, PAGE, 1);
	CHECK(hole[1ul << 23] == 'h' && !hole[1ul << 22]);
}

static void check_memfd(void)
{
	struct stat status;
	char byte;

	CHECK(lseek(MEMFD, 0, SEEK_CUR) == 123 && lseek(MEMFD_AGAIN, 1, SEEK_CUR) == 124 && lseek(MEMFD, -1, SEEK_CUR) == 123);
	CHECK(lseek(MEMFD_READ, 0, SEEK_CUR) == 7 && write(MEMFD_READ, "x", 1) < 0 && fcntl(MEMFD_READ, F_GETFL) & O_NONBLOCK);
	CHECK(fcntl(MEMFD_READ, F_GETFD) == FD_CLOEXEC && fcntl(MEMFD, F_GETFD) == 0);
	CHECK(!fstat(MEMFD, &status) && status.st_size == AREA - 100 && (status.st_mode & 07777) == 0640);
	CHECK(status.st_uid == 17 && status.st_gid == 18);
	((uint64_t *)memory)[5 * PAGE / 8] = turn;
	CHECK(((uint64_t *)memory_private)[5 * PAGE / 8] == turn && memory_private[3 * PAGE] == 'p');
	check_area("memfd", memory, 5 * PAGE, 2);
	check_area("sealed", sealed, AREA, 3);
	CHECK(fcntl(SEALED, F_GET_SEALS) == SEALS && fcntl(MEMFD, F_GET_SEALS) == 0 && fcntl(PLAIN, F_GET_SEALS) == F_SEAL_SEAL);
	CHECK(pwrite(SEALED, "x", 1, 0) < 0 && errno == EPERM);
	CHECK(pread(PLAIN, &byte, 1, 4) == 1 && byte == 'n' && lseek(PLAIN, 0, SEEK_CUR) == 5);
	CHECK(!fstat(EMPTY, &status) && status.st_size == 0);
}

/* A child that tells what it sees at a place of each object, and writes behind it. */
static void serve_parent(void)
{
	size_t at;

	while (read(orders[0], &at, sizeof(at)) == sizeof(at)) {
		uint64_t seen[3] = { *(uint64_t *)(anonymous + at), *(uint64_t *)(memory + at), *(uint64_t *)(sealed + at) };

		*(uint64_t *)(anonymous + at + 8) = *(uint64_t *)(memory + at + 8) = ~seen[0];
		MUST(write(replies[1], seen, sizeof(seen)));
	}
	_exit(0);
}

static void check_child(void)
{
	size_t at = 6 * PAGE;
	uint64_t seen[3];

	*(uint64_t *)(anonymous + at) = *(uint64_t *)(memory + at) = turn;
	MUST(write(orders[1], &at, sizeof(at)));
	MUST(read(replies[0], seen, sizeof(seen)));
	CHECK(seen[0] == turn && seen[1] == turn && seen[2] == word(3, at / 8));
	CHECK(*(uint64_t *)(anonymous + at + 8) == ~turn && *(uint64_t *)(memory + at + 8) == ~turn);
}

static void obey(const char *line)
{
	check_anonymous();
	check_memfd();
	check_child();
}

int main(int argc, char **argv)
{
	begin(argv);
	make_anonymous();
	make_memfd();
	MUST(pipe(orders) + pipe(replies));
	if (!MUST(fork())) {
		close(orders[1]);
		serve_parent();
	}
	close(orders[0]);
	serve(obey);
}
