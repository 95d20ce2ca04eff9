// SPDX-License-Identifier: GPL-2.0

#include <linux/cdev.h>
#include <linux/fs.h>

__rust_helper struct cdev *rust_helper_inode_cdev(const struct inode *inode)
{
	return inode->i_cdev;
}
