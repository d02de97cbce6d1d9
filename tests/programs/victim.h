/* Copyright (c) 2026, Stillframe contributors
 * GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* What the self-checking victims share. A victim is started with a directory as argument, which holds the named pipes
 * "ask" and "answer". It answers a line with each line that comes: "ok", or what is wrong. Its first line is "ready". */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ul

static const char *directory;
static int asks, answers;
static char problems[4096];

/* Take note of something that is wrong. */
__attribute__((format(printf, 1, 2), unused)) static void problem(const char *format, ...)
{
	size_t used = strlen(problems);
	va_list args;

	va_start(args, format);
	vsnprintf(problems + used, sizeof(problems) - used, format, args);
	va_end(args);
	strncat(problems, "; ", sizeof(problems) - strlen(problems) - 1);
}

#define MUST(call)                                                     \
	({                                                                 \
		__typeof__(call) result_ = (call);                             \
		if ((long)result_ == -1) {                                     \
			dprintf(2, "%s:%d: %s: %m\n", __FILE__, __LINE__, #call);  \
			_exit(1);                                                  \
		}                                                              \
		result_;                                                       \
	})

#define CHECK(condition)                                               \
	do {                                                               \
		if (!(condition))                                              \
			problem("line %d: %s (errno %d)", __LINE__, #condition, errno); \
	} while (0)

__attribute__((unused)) static char *in_directory(const char *name)
{
	static char path[512];

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	return path;
}

static void begin(char **argv)
{
	directory = argv[1];
	asks = MUST(open(in_directory("ask"), O_RDWR | O_CLOEXEC));
	answers = MUST(open(in_directory("answer"), O_RDWR | O_CLOEXEC));
}

static void answer(const char *text)
{
	char line[sizeof(problems) + 2];
	int length = snprintf(line, sizeof(line), "%s\n", text);

	MUST(write(answers, line, length));
}

/* Answer questions for ever: OBEY does what each asks for and reports problems. */
static void serve(void (*obey)(const char *))
{
	char line[256];

	answer("ready");
	for (;;) {
		size_t length = 0;

		do {
			ssize_t got = read(asks, line + length, 1);

			if (got < 0 && errno == EINTR)
				continue;
			MUST(got);
			length++;
		} while (!length || line[length - 1] != '\n');
		line[length - 1] = 0;
		problems[0] = 0;
		obey(line);
		answer(problems[0] ? problems : "ok");
	}
}

/* Do WORK without a pause, and answer the questions that come meanwhile: OBEY does what each asks for. */
__attribute__((unused)) static void work_on(void (*work)(void), void (*obey)(const char *))
{
	char line[64];

	answer("ready");
	for (;;) {
		work();
		if (poll(&(struct pollfd){ asks, POLLIN, 0 }, 1, 0) <= 0)
			continue;
		line[MUST(read(asks, line, sizeof(line) - 1)) - 1] = 0;
		problems[0] = 0;
		obey(line);
		answer(problems[0] ? problems : "ok");
	}
}

/* The word that belongs to place NUMBER of area SEED. */
__attribute__((unused)) static uint64_t word(uint64_t seed, uint64_t number)
{
	uint64_t x = seed * 0x9e3779b97f4a7c15 + number + 1;

	x ^= x >> 30;
	x *= 0xbf58476d1ce4e5b9;
	x ^= x >> 27;
	x *= 0x94d049bb133111eb;
	return x ^ x >> 31;
}

__attribute__((unused)) static void fill(void *area, size_t size, uint64_t seed)
{
	for (size_t i = 0; i < size / 8; i++)
		((uint64_t *)area)[i] = word(seed, i);
}

/* Return the offset of the first word that is wrong, or -1. */
__attribute__((unused)) static long wrong_at(const void *area, size_t size, uint64_t seed)
{
	for (size_t i = 0; i < size / 8; i++)
		if (((const uint64_t *)area)[i] != word(seed, i))
			return i * 8;
	return -1;
}

__attribute__((unused)) static void check_area(const char *name, const void *area, size_t size, uint64_t seed)
{
	long at = wrong_at(area, size, seed);

	if (at >= 0)
		problem("%s is wrong at offset %#lx", name, at);
}
