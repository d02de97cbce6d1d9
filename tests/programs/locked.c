/* Copyright (c) 2026, Stillframe contributors
 * GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* Locked memory in all its ways. Further argument: what mlockall(2) gets, as a number. "check": what is locked, how, and
 * what a new mapping is. */
#include "victim.h"

#define AREA (16 * PAGE)

static char *plain, *locked, *on_fault, *never, *part_of_file;
static int future;

/* What smaps tells of the mapping that has ADDRESS: its VmFlags, as " lo" and " lf", or "", and KILOBYTES that are there. */
static const char *flags_at(const char *address, long *kilobytes)
{
	static char line[512], found[8];
	FILE *file = fopen("/proc/self/smaps", "r");
	int inside = 0;

	found[0] = 0;
	while (fgets(line, sizeof(line), file)) {
		unsigned long start, end;

		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			inside = start <= (unsigned long)address && (unsigned long)address < end;
		else if (inside && !strncmp(line, "Rss:", 4))
			*kilobytes = atol(line + 4);
		else if (inside && !strncmp(line, "VmFlags:", 8))
			sprintf(found, "%s%s", strstr(line, " lo") ? " lo" : "", strstr(line, " lf") ? " lf" : "");
	}
	fclose(file);
	return found;
}

/* See whether the mapping that has ADDRESS is locked as WANTED, with that many KILOBYTES in memory, if not negative. */
static void check_lock(const char *address, const char *wanted, long kilobytes)
{
	long there = -1;

	if (strcmp(flags_at(address, &there), wanted) || (kilobytes >= 0 && there != kilobytes))
		problem("\"%s\" and %ld KiB where \"%s\" and %ld KiB are to be", flags_at(address, &there), there, wanted, kilobytes);
}

static char *map(int protection, int flags)
{
	return MUST(mmap(NULL, AREA, protection, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0));
}

static void check_new(void)
{
	char *new = map(PROT_READ | PROT_WRITE, MAP_NORESERVE); /* so that it is a mapping of its own */
	const char *wanted = future & MCL_FUTURE ? future & MCL_ONFAULT ? " lo lf" : " lo" : "";

	check_lock(new, wanted, future == MCL_FUTURE ? AREA / 1024 : 0);
	MUST(munmap(new, AREA));
}

static void obey(const char *line)
{
	(void)line;
	check_lock(plain, "", -1);
	check_lock(locked, " lo", AREA / 1024);
	check_lock(on_fault, " lo lf", PAGE / 1024);
	check_lock(never, " lo", 0);
	check_lock(part_of_file, " lo", -1);
	CHECK(!strcmp(part_of_file, "short"));
	CHECK(plain[0] == 'p' && locked[0] == 'l' && on_fault[0] == 'o');
	check_new();
}

int main(int argc, char **argv)
{
	int fd;

	(void)argc;
	begin(argv);
	future = atoi(argv[2]);
	MUST(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)); /* so that a page which is touched brings no others */
	plain = map(PROT_READ | PROT_WRITE, 0);
	locked = map(PROT_READ | PROT_WRITE, 0);
	on_fault = map(PROT_READ | PROT_WRITE, 0);
	never = map(PROT_NONE, 0);
	fd = MUST(open(in_directory("short"), O_RDWR | O_CREAT | O_TRUNC, 0600));
	MUST(write(fd, "short", 5));
	part_of_file = MUST(mmap(NULL, 4 * PAGE, PROT_READ, MAP_PRIVATE, fd, 0));
	close(fd);
	plain[0] = 'p';
	locked[0] = 'l';
	on_fault[0] = 'o';
	MUST(mlock(locked, AREA));
	MUST(mlock2(on_fault, AREA, MLOCK_ONFAULT));
	mlock(never, AREA); /* locks it, and says that there is nothing */
	mlock(part_of_file, 4 * PAGE);
	if (future)
		MUST(mlockall(future));
	serve(obey);
}
