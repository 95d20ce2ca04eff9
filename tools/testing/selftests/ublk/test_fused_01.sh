#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

if ! _have_program fio; then
	exit "$UBLK_SKIP_CODE"
fi

_prep_test "fused" "null: basic IO test"

for nr_queue in 1 2; do
	dev_id=$(_add_ublk_dev -t null --fused -q "$nr_queue")
	_check_add_dev "$TID" $?

	fio --name=job1 --filename=/dev/ublkb"${dev_id}" --ioengine=libaio \
		--direct=1 --rw=randrw --bsrange=4k-512k --iodepth=32 --size=1G \
		--io_size=64M > /dev/null 2>&1 || ERR_CODE=255

	_ublk_del_dev "${dev_id}" || ERR_CODE=255
done

_cleanup_test
_show_result "$TID" $ERR_CODE
