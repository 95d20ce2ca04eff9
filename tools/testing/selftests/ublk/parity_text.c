// SPDX-License-Identifier: GPL-2.0
/* parity: results and other things as text. */
#include <stdarg.h>
#include "parity.h"

/* Never freed: no process of ours lives long */
const char *str(const char *fmt, ...)
{
	va_list args;
	char *s;

	va_start(args, fmt);
	if (vasprintf(&s, fmt, args) < 0)
		_exit(2);
	va_end(args);
	return s;
}

const char *res_name(int res)
{
	const char *name;

	if (res == BLOCKS)
		return "waits";
	if (res >= 0)
		return str("%d", res);
	name = strerrorname_np(-res);
	return name ? name : str("%d", res);
}
