/* Copyright (c) 2026, Stillframe contributors
 * GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* A process that holds MIB mebibytes of memory, all of it touched and different: heap MIB FIFO.
 * It creates FIFO.out once all is filled. Each byte that comes through the named pipe FIFO is a command, answered by a line
 * in the file FIFO.out: 'd' dirties every hundredth page; 'p' tells the longest pause since the last 'p', in microseconds,
 * that a thread which looks at the clock all the time has seen; 's' tells a sum over all memory. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define EVERY 100

static volatile long longest;

static long microseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000L + now.tv_nsec / 1000;
}

static void *watch(void *unused)
{
	const struct timespec step = { 0, 200000 };
	long last = microseconds();

	prctl(PR_SET_TIMERSLACK, 1);
	for (;;) {
		long now;

		nanosleep(&step, NULL);
		now = microseconds();
		if (now - last > longest)
			longest = now - last;
		last = now;
	}
	return unused;
}

static uint64_t next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void answer(const char *path, uint64_t number)
{
	char line[32], partial[4096];
	int length = snprintf(line, sizeof line, "%llu\n", (unsigned long long)number);
	int fd;

	snprintf(partial, sizeof partial, "%s.partial", path);
	fd = open(partial, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || write(fd, line, length) != length || close(fd) || rename(partial, path))
		exit(1);
}

int main(int argc, char **argv)
{
	uint64_t size, at, sum, state = 88172645463325252ULL;
	uint64_t *memory;
	pthread_t watcher;
	char out[4000], command;
	int fifo;

	if (argc != 3)
		return 2;
	size = strtoull(argv[1], NULL, 10) << 20;
	snprintf(out, sizeof out, "%s.out", argv[2]);
	memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return 1;
	for (at = 0; at < size / sizeof *memory; at++)
		memory[at] = next(&state);
	fifo = open(argv[2], O_RDWR);
	if (fifo < 0 || pthread_create(&watcher, NULL, watch, NULL))
		return 1;
	answer(out, 0);
	while (read(fifo, &command, 1) == 1) {
		if (command == 'd') {
			for (at = 0; at < size; at += EVERY * PAGE)
				memory[at / sizeof *memory] = next(&state);
			answer(out, size / PAGE / EVERY);
		} else if (command == 'p') {
			answer(out, longest);
			longest = 0;
		} else {
			for (sum = at = 0; at < size / sizeof *memory; at++)
				sum = sum * 31 + memory[at];
			answer(out, sum);
		}
	}
	return 1;
}
