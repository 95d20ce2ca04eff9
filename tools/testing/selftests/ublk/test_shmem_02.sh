#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

_prep_test "shmem" "registered memory: errors, huge pages, RLIMIT_MEMLOCK"

OLD_NR_HP=$(cat /proc/sys/vm/nr_hugepages)
"$(_ublk_test_top_dir)"/life_shmem_limits
ERR_CODE=$?
echo "$OLD_NR_HP" > /proc/sys/vm/nr_hugepages

_cleanup_test
_show_result "$TID" $ERR_CODE
