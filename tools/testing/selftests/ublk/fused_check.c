// SPDX-License-Identifier: GPL-2.0
/*
 * What the parts of "fused_cmd_errors" expect of a program, for programs whose
 * tests are processes of their own ("fused_stale", "fused_hostile").
 */
#include <stdarg.h>
#include "fused_errors.h"

unsigned int ring_flags;
int ctrl_fd;

/* The test ends here */
void check(bool cond, const char *fmt, ...)
{
	va_list args;

	if (cond)
		return;
	va_start(args, fmt);
	printf("# ");
	vprintf(fmt, args);
	printf("\n");
	va_end(args);
	fflush(stdout);
	_exit(KSFT_FAIL);
}

void fatal(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	printf("# ");
	vprintf(fmt, args);
	va_end(args);
	fflush(stdout);
	_exit(KSFT_FAIL);
}
