// SPDX-License-Identifier: GPL-2.0
/* fused_cmd_errors: what buffers and the server's file contain. */
#include "fused_errors.h"

/* what byte a buffer or file has at @i, in block @seed */
static unsigned char pattern(unsigned int seed, size_t i)
{
	return (i * 7 + (i >> 9) * 13 + seed * 31 + 1) & 0xff;
}

void fill(void *buf, unsigned int seed, size_t from, size_t len)
{
	unsigned char *p = buf;

	while (len--)
		*p++ = pattern(seed, from++);
}

int differs(const void *buf, unsigned int seed, size_t from, size_t len)
{
	const unsigned char *p = buf;

	while (len--)
		if (*p++ != pattern(seed, from++))
			return 1;
	return 0;
}

int all_are(const void *buf, int byte, size_t len)
{
	const unsigned char *p = buf;

	while (len--)
		if (*p++ != byte)
			return 0;
	return 1;
}

int file_untouched(struct server *s)
{
	unsigned char *content = malloc(FILE_LEN);
	int res;

	if (pread(s->file, content, FILE_LEN, 0) != FILE_LEN)
		FATAL("cannot read the file");
	res = !differs(content, 0, 0, FILE_LEN);
	free(content);
	return res;
}

/* Give the file its content back */
void file_reset(struct server *s)
{
	unsigned char *content = malloc(FILE_LEN);

	fill(content, 0, 0, FILE_LEN);
	if (ftruncate(s->file, FILE_LEN) || pwrite(s->file, content, FILE_LEN, 0) != FILE_LEN)
		FATAL("cannot write the file");
	free(content);
}
