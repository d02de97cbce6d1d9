/* Copyright (c) 2026, Stillframe contributors
 * GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* Holds huge pages in every way: private, private and read-only, shared with a child, a sealed memfd mapped both ways, and with
 * "all" as second argument System V shared memory. Asked to "change", it writes all anew. */
#include "victim.h"
#include <sys/ipc.h>
#include <sys/shm.h>

#define HUGE (2ul << 20)
#define SIZE_2MB (21 << 26)
#define MEMFD 40

static char *private_one, *constant, *shared, *memory, *memory_private, *segment;
static int to_child[2], from_child[2];
static uint64_t generation = 1;

static char *map(size_t size, int flags, int fd)
{
	return MUST(mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0));
}

static void attach_segment(void)
{
	int id = MUST(shmget(IPC_PRIVATE, HUGE, IPC_CREAT | 0600 | SHM_HUGETLB | SIZE_2MB));

	segment = shmat(id, NULL, 0);
	MUST((long)segment);
	MUST(shmctl(id, IPC_RMID, NULL));
}

static void fill_all(void)
{
	fill(private_one, HUGE, generation);
	fill(shared + HUGE, HUGE, generation + 1);
	fill(memory, HUGE / 2, generation + 2);
	if (segment)
		fill(segment, HUGE, generation + 3);
}

static void check_all(void)
{
	check_area("private", private_one, HUGE, generation);
	check_area("read-only", constant, HUGE, 50);
	check_area("shared", shared + HUGE, HUGE, generation + 1);
	check_area("memfd", memory, HUGE / 2, generation + 2);
	check_area("private view of the memfd", memory_private + HUGE / 2, HUGE / 2, 60);
	if (segment)
		check_area("segment", segment, HUGE, generation + 3);
	CHECK(shared[0] == 0 && memory[HUGE] == 0);
	CHECK(fcntl(MEMFD, F_GET_SEALS) == F_SEAL_GROW && lseek(MEMFD, 0, SEEK_CUR) == 123);
}

static void child(void)
{
	char go;

	while (read(to_child[0], &go, 1) == 1) {
		long wrong = wrong_at(shared + HUGE, HUGE, generation + 1 + (go == 'c'));

		if (go == 'c')
			generation++;
		if (wrong < 0 && private_one[0] != (char)word(1, 0))
			wrong = 0;
		MUST(write(from_child[1], &wrong, sizeof(wrong)));
	}
	_exit(0);
}

static void ask_child(char how)
{
	long wrong = 0;

	MUST(write(to_child[1], &how, 1));
	CHECK(read(from_child[0], &wrong, sizeof(wrong)) == sizeof(wrong) && wrong == -1);
}

static void obey(const char *question)
{
	if (!strcmp(question, "change")) {
		generation++;
		fill_all();
		ask_child('c');
	} else {
		check_all();
		ask_child('s');
	}
}

int main(int argc, char **argv)
{
	int huge = MAP_HUGETLB | SIZE_2MB, fd;

	begin(argv);
	private_one = map(2 * HUGE, MAP_PRIVATE | MAP_ANONYMOUS | huge, -1);
	constant = map(HUGE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | huge, -1);
	fill(constant, HUGE, 50);
	MUST(mprotect(constant, HUGE, PROT_READ));
	shared = map(2 * HUGE, MAP_SHARED | MAP_ANONYMOUS | huge, -1);
	fd = MUST(memfd_create("of huge pages", MFD_HUGETLB | SIZE_2MB | MFD_ALLOW_SEALING | MFD_CLOEXEC));
	MUST(dup2(fd, MEMFD));
	close(fd);
	MUST(ftruncate(MEMFD, 2 * HUGE));
	MUST(fcntl(MEMFD, F_ADD_SEALS, F_SEAL_GROW));
	MUST(lseek(MEMFD, 123, SEEK_SET));
	memory = map(2 * HUGE, MAP_SHARED, MEMFD);
	memory_private = map(HUGE, MAP_PRIVATE, MEMFD);
	if (argc > 2)
		attach_segment();
	fill_all();
	fill(memory_private + HUGE / 2, HUGE / 2, 60);
	MUST(pipe(to_child));
	MUST(pipe(from_child));
	if (!MUST(fork()))
		child();
	serve(obey);
}
