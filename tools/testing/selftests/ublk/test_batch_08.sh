#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# kublk's batches, in every way in which a server can reach the data.

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

if ! _have_feature "BATCH_IO" || ! _have_program fio; then
	exit "$UBLK_SKIP_CODE"
fi

_prep_test "batch" "data of batches: copied, registered, lent"

_create_backfile 0 32M

MODES=("" "-u" "-z" "--auto_zc")
_have_feature "FUSED_CMD" && MODES+=("--fused")

for mode in "${MODES[@]}"; do
	# shellcheck disable=SC2086
	dev_id=$(_add_ublk_dev -t loop -q 2 -d 32 -b $mode "${UBLK_BACKFILES[0]}")
	_check_add_dev "$TID" $?

	fio --name=verify --filename=/dev/ublkb"${dev_id}" --ioengine=libaio \
		--direct=1 --rw=randwrite --bsrange=4k-64k --iodepth=32 \
		--verify=crc32c --verify_state_save=0 --size=32M > /dev/null 2>&1 &&
		cmp /dev/ublkb"${dev_id}" "${UBLK_BACKFILES[0]}" || ERR_CODE=255

	_ublk_del_dev "${dev_id}" || ERR_CODE=255
	[ $ERR_CODE -eq 0 ] || echo "failed with -b $mode"
	[ $ERR_CODE -eq 0 ] || break
done

_cleanup_test
_show_result "$TID" $ERR_CODE
