// SPDX-License-Identifier: GPL-2.0

#include <linux/uio.h>

__rust_helper bool rust_helper_user_backed_iter(const struct iov_iter *i)
{
	return user_backed_iter(i);
}
