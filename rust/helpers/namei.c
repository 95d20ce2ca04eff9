// SPDX-License-Identifier: GPL-2.0

#include <linux/namei.h>

__rust_helper struct inode *rust_helper_d_backing_inode(const struct dentry *upper)
{
	return d_backing_inode(upper);
}
