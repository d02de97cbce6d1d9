/* Copyright (c) 2026, Stillframe contributors
 * GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* Locked memory in all its ways. Further argument: what mlockall(2) gets, as a number. "check": what is locked, how, and
 * what a new mapping is. */
#include "victim.h"

#define AREA (16 * PAGE)

static char *plain, *locked, *on_fault, *never, *part_of_file;
static int future;

/* The VmFlags of the mapping that has ADDRESS, as " lo" and " lf", or "". */
static const char *flags_at(const char *address)
{
	static char line[512], found[8];
	FILE *file = fopen("/proc/self/smaps", "r");
	int inside = 0;

	found[0] = 0;
	while (fgets(line, sizeof(line), file)) {
		unsigned long start, end;

		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			inside = start <= (unsigned long)address && (unsigned long)address < end;
		else if (inside && !strncmp(line, "VmFlags:", 8))
			sprintf(found, "%s%s", strstr(line, " lo") ? " lo" : "", strstr(line, " lf") ? " lf" : "");
	}
	fclose(file);
	return found;
}

static int is_there(const char *page)
{
	unsigned char there;

	MUST(mincore((void *)page, PAGE, &there));
	return there & 1;
}

static char *map(int protection)
{
	return MUST(mmap(NULL, AREA, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
}

static void check_new(void)
{
	char *new = map(PROT_READ | PROT_WRITE);
	const char *wanted = future & MCL_FUTURE ? future & MCL_ONFAULT ? " lo lf" : " lo" : "";

	CHECK(!strcmp(flags_at(new), wanted));
	CHECK(is_there(new) == (future == MCL_FUTURE));
	MUST(munmap(new, AREA));
}

static void obey(const char *line)
{
	(void)line;
	CHECK(!strcmp(flags_at(plain), "") && !is_there(plain + 5 * PAGE));
	CHECK(!strcmp(flags_at(locked), " lo") && is_there(locked + 5 * PAGE));
	CHECK(!strcmp(flags_at(on_fault), " lo lf") && is_there(on_fault) && !is_there(on_fault + 5 * PAGE));
	CHECK(!strcmp(flags_at(never), " lo"));
	CHECK(!strcmp(flags_at(part_of_file), " lo") && !strcmp(part_of_file, "short"));
	CHECK(plain[0] == 'p' && locked[0] == 'l' && on_fault[0] == 'o');
	check_new();
}

int main(int argc, char **argv)
{
	int fd;

	(void)argc;
	begin(argv);
	future = atoi(argv[2]);
	plain = map(PROT_READ | PROT_WRITE);
	locked = map(PROT_READ | PROT_WRITE);
	on_fault = map(PROT_READ | PROT_WRITE);
	never = map(PROT_NONE);
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
