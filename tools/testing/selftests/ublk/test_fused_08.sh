#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

if ! _have_program fio; then
	exit "$UBLK_SKIP_CODE"
fi

_prep_test "fused" "devices added and deleted under IO"

_create_backfile 0 32M
_create_backfile 1 32M

_delete_round()
{
	local dev_id fio_pid

	dev_id=$(_add_ublk_dev_no_settle --fused "$@")
	_check_add_dev "$TID" $?

	fio --name=job1 --filename=/dev/ublkb"${dev_id}" --ioengine=libaio \
		--allow_file_create=0 --direct=1 --rw=randrw --norandommap \
		--bsrange=4k-128k --iodepth=64 --size=32M --runtime=60 \
		--time_based > /dev/null 2>&1 &
	fio_pid=$!
	if ! _wait_for_io "${dev_id}" 200; then
		echo "no load on the device"
		ERR_CODE=255
	fi
	_ublk_del_dev "${dev_id}" || ERR_CODE=255
	wait "$fio_pid"
	if [ -e /dev/ublkc"${dev_id}" ]; then
		echo "/dev/ublkc${dev_id} isn't removed"
		ERR_CODE=255
	fi
}

for _ in 1 2; do
	_delete_round -t null -q 2
	_delete_round -t loop -q 2 "${UBLK_BACKFILES[0]}"
	_delete_round -t stripe -q 1 --chunk_size 4096 "${UBLK_BACKFILES[@]}"
done

_cleanup_test
_show_result "$TID" $ERR_CODE
