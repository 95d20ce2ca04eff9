#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

if ! _have_program fio; then
	exit "$UBLK_SKIP_CODE"
fi

_prep_test "fused" "loop: write and verify"

# one queue first, then two that share the file
for nr_queue in 1 2; do
	_create_backfile 0 64M
	dev_id=$(_add_ublk_dev -t loop --fused -q "$nr_queue" -d 64 "${UBLK_BACKFILES[0]}")
	_check_add_dev "$TID" $?

	for bs_size in 4k:2M 64k:8M 512k:24M; do
		_run_fio_verify_io --filename=/dev/ublkb"${dev_id}" \
			--bs="${bs_size%:*}" --size="${bs_size#*:}" || ERR_CODE=255
	done

	# neighbours submitted together become requests of several bios
	_run_fio_verify_io --filename=/dev/ublkb"${dev_id}" --rw=write --bs=4k \
		--size=2M --iodepth_batch_submit=32 --iodepth_batch_complete_min=32 ||
		ERR_CODE=255

	_ublk_del_dev "${dev_id}" || ERR_CODE=255
done

_cleanup_test
_show_result "$TID" $ERR_CODE
