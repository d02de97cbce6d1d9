/* Copyright (c) 2026, Stillframe contributors
 * GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* Holds System V shared memory: a segment with a key, of an odd size, attached twice, once for reading only; one without a
 * key that belongs to another user; one that is to go with its last attachment. Asked to "change", it writes all anew. */
#include "victim.h"
#include <sys/ipc.h>
#include <sys/shm.h>

#define KEYED_SIZE 5000
#define SIZE (64 * PAGE)

static int keyed, private_one, doomed;
static char *keyed_at, *read_at, *private_at, *doomed_at;
static uint64_t generation;

static char *attach(int id, int flags)
{
	char *at = shmat(id, NULL, flags);

	MUST((long)at);
	return at;
}

static void fill_all(void)
{
	generation++;
	fill(keyed_at, KEYED_SIZE, generation);
	fill(private_at + SIZE / 2, SIZE / 4, generation + 100);
	fill(doomed_at, SIZE, generation + 200);
}

static void check_all(uint64_t wanted)
{
	struct shmid_ds about;

	check_area("segment with a key", read_at, KEYED_SIZE, wanted);
	check_area("segment without a key", private_at + SIZE / 2, SIZE / 4, wanted + 100);
	check_area("segment that is to go", doomed_at, SIZE, wanted + 200);
	CHECK(private_at[0] == 0 && private_at[SIZE - 1] == 0);
	CHECK(shmget(getpid(), KEYED_SIZE, 0) == keyed);
	CHECK(shmctl(keyed, IPC_STAT, &about) == 0 && about.shm_nattch == 2 && about.shm_segsz == KEYED_SIZE);
	CHECK(shmctl(private_one, IPC_STAT, &about) == 0 && about.shm_nattch == 1 && about.shm_perm.uid == 1234 && about.shm_perm.mode == 0640);
	CHECK(shmctl(doomed, IPC_STAT, &about) == 0 && about.shm_perm.mode & SHM_DEST);
}

static void detach_and_attach(void)
{
	CHECK(shmdt(keyed_at) == 0);
	CHECK(shmat(keyed, keyed_at, 0) == keyed_at);
}

static void obey(const char *question)
{
	if (!strcmp(question, "change"))
		fill_all();
	else if (!strcmp(question, "changed"))
		check_all(2);
	else
		check_all(generation);
	detach_and_attach();
}

int main(int argc, char **argv)
{
	struct shmid_ds about;

	(void)argc;
	begin(argv);
	keyed = MUST(shmget(getpid(), KEYED_SIZE, IPC_CREAT | IPC_EXCL | 0600));
	private_one = MUST(shmget(IPC_PRIVATE, SIZE, IPC_CREAT | 0600));
	doomed = MUST(shmget(IPC_PRIVATE, SIZE, IPC_CREAT | 0600));
	keyed_at = attach(keyed, 0);
	read_at = attach(keyed, SHM_RDONLY);
	private_at = attach(private_one, 0);
	doomed_at = attach(doomed, 0);
	MUST(shmctl(private_one, IPC_STAT, &about));
	about.shm_perm.uid = 1234;
	about.shm_perm.mode = 0640;
	MUST(shmctl(private_one, IPC_SET, &about));
	MUST(shmctl(doomed, IPC_RMID, NULL));
	fill_all();
	serve(obey);
	return 0;
}
