/* Copyright (c) 2026, Stillframe contributors
 * GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* Threads that spin with known values in all registers, the vector ones too, and without a system call or a store. When
 * told to stop they look whether all still hold what they should. */
#include "victim.h"

#define SPINNERS 3

struct registers {
	uint64_t general[13]; /* rbx rcx rdx rsi r8-r15 rbp */
	uint32_t mxcsr, padding;
	unsigned char vector[16][32];
	double x87;
};

static struct registers wanted[SPINNERS], found[SPINNERS];
static volatile int stop;
static pthread_t threads[SPINNERS];

static void fill_wanted(int number)
{
	fill(&wanted[number], sizeof(wanted[number]), 100 + number);
	wanted[number].mxcsr = 0x1f80 | (number & 3) << 13 | 0x21;
	wanted[number].x87 = 1.5 + number;
}

/* rax and rdi stay: what to watch and where to put what was found. */
__attribute__((noinline)) static void spin(const struct registers *in, struct registers *out)
{
	__asm__ volatile(
		"pushq %%rbp\n pushq %%rbx\n"
		"pushq %%rdi\n"
		"fldl 624(%%rsi)\n"
		"ldmxcsr 104(%%rsi)\n"
		".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
		"vmovdqu 112+32*\\n(%%rsi), %%ymm\\n\n"
		".endr\n"
		"movq 0(%%rsi), %%rbx\n movq 8(%%rsi), %%rcx\n movq 16(%%rsi), %%rdx\n"
		"movq 32(%%rsi), %%r8\n movq 40(%%rsi), %%r9\n movq 48(%%rsi), %%r10\n movq 56(%%rsi), %%r11\n"
		"movq 64(%%rsi), %%r12\n movq 72(%%rsi), %%r13\n movq 80(%%rsi), %%r14\n movq 88(%%rsi), %%r15\n"
		"movq 96(%%rsi), %%rbp\n movq 24(%%rsi), %%rsi\n"
		"std\n"
		"movl $1, 108(%%rdi)\n" /* from here on nothing is written */
		"1: pause\n cmpl $0, (%%rax)\n je 1b\n"
		"pushfq\n testq $0x400, (%%rsp)\n jnz 2f\n movq $0, %%rbx\n 2: addq $8, %%rsp\n"
		"cld\n"
		"popq %%rdi\n"
		"movq %%rbx, 0(%%rdi)\n movq %%rcx, 8(%%rdi)\n movq %%rdx, 16(%%rdi)\n movq %%rsi, 24(%%rdi)\n"
		"movq %%r8, 32(%%rdi)\n movq %%r9, 40(%%rdi)\n movq %%r10, 48(%%rdi)\n movq %%r11, 56(%%rdi)\n"
		"movq %%r12, 64(%%rdi)\n movq %%r13, 72(%%rdi)\n movq %%r14, 80(%%rdi)\n movq %%r15, 88(%%rdi)\n"
		"movq %%rbp, 96(%%rdi)\n"
		"stmxcsr 104(%%rdi)\n fstpl 624(%%rdi)\n"
		".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
		"vmovdqu %%ymm\\n, 112+32*\\n(%%rdi)\n"
		".endr\n"
		"popq %%rbx\n popq %%rbp\n"
		"vzeroupper\n"
		: "+S"(in), "+D"(out)
		: "a"(&stop)
		: "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4",
		  "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

static void *run(void *argument)
{
	long number = (long)argument;
	static const uint32_t plain = 0x1f80;

	spin(&wanted[number], &found[number]);
	__asm__ volatile("ldmxcsr %0" ::"m"(plain));
	return NULL;
}

static void start(void)
{
	stop = 0;
	for (long number = 0; number < SPINNERS; number++)
		pthread_create(&threads[number], NULL, run, (void *)number);
	for (int number = 0; number < SPINNERS; number++)
		while (!*(volatile uint32_t *)&found[number].padding)
			sched_yield();
}

static void obey(const char *line)
{
	stop = 1;
	for (int number = 0; number < SPINNERS; number++) {
		pthread_join(threads[number], NULL);
		found[number].padding = wanted[number].padding;
		for (size_t i = 0; i < 13; i++)
			if (found[number].general[i] != wanted[number].general[i])
				problem("thread %d: general register %zu is %#lx", number, i, found[number].general[i]);
		CHECK(found[number].mxcsr == wanted[number].mxcsr);
		CHECK(found[number].x87 == wanted[number].x87);
		for (int i = 0; i < 16; i++)
			if (memcmp(found[number].vector[i], wanted[number].vector[i], 32))
				problem("thread %d: ymm%d is wrong", number, i);
	}
	memset(found, 0, sizeof(found));
	start();
}

int main(int argc, char **argv)
{
	begin(argv);
	_Static_assert(__builtin_offsetof(struct registers, x87) == 624, "as the assembly has it");
	for (int number = 0; number < SPINNERS; number++)
		fill_wanted(number);
	start();
	serve(obey);
}
