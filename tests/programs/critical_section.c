/* Copyright (c) 2026, Stillframe contributors
 * GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* A process that stays in a restartable sequence (rseq(2)), which ends by being aborted only. Prints the addresses of its
 * first instruction, of the one behind it, and of the abort handler; each abort is counted in `aborts`, whose address is printed last. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <sys/rseq.h>

extern const char section_start[], section_end[], section_abort[];
static volatile uint64_t aborts;

int main(void)
{
	static struct rseq_cs section __attribute__((aligned(32)));
	struct rseq *area = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);

	section.start_ip = (uintptr_t)section_start;
	section.post_commit_offset = section_end - section_start;
	section.abort_ip = (uintptr_t)section_abort;
	printf("%lx %lx %lx %lx\n", (long)section_start, (long)section_end, (long)section_abort, (long)&aborts);
	fflush(stdout);
	__asm__ volatile(
		"1: movq %1, 8(%0)\n"
		".globl section_start, section_end, section_abort\n"
		"section_start: jmp section_start\n"
		"section_end: nop\n"
		".long 0x53053053\n"
		"section_abort: incq (%2)\n"
		"jmp 1b\n" ::"r"(area), "r"(&section), "r"(&aborts) : "memory");
}
