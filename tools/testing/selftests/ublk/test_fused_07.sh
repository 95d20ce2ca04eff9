#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

if ! _have_program fio; then
	exit "$UBLK_SKIP_CODE"
fi

_prep_test "fused" "server killed under load"

_create_backfile 0 64M
_create_backfile 1 64M

# Kill the server while fio runs, then delete its device.
_kill_round()
{
	local dev_id state
	local fio_pids=()

	dev_id=$(_add_ublk_dev --fused "$@")
	_check_add_dev "$TID" $?

	# one that goes round the page cache, one that leaves dirty pages
	fio --name=job1 --filename=/dev/ublkb"${dev_id}" --ioengine=libaio \
		--allow_file_create=0 --direct=1 --rw=randrw --norandommap \
		--bsrange=4k-256k --iodepth=64 --size=64M --runtime=60 \
		--time_based > /dev/null 2>&1 &
	fio_pids+=($!)
	fio --name=job2 --filename=/dev/ublkb"${dev_id}" --ioengine=io_uring \
		--allow_file_create=0 --rw=randrw --norandommap --bs=64k \
		--iodepth=16 --size=8M --runtime=60 --time_based > /dev/null 2>&1 &
	fio_pids+=($!)

	if ! _wait_for_io "${dev_id}" 200; then
		echo "no load on the server"
		ERR_CODE=255
	fi
	state=$(__ublk_kill_daemon "${dev_id}" "DEAD")
	if [ "$state" != "DEAD" ]; then
		echo "device isn't dead($state) after killing daemon"
		ERR_CODE=255
	fi
	_ublk_del_dev "${dev_id}" || ERR_CODE=255
	wait "${fio_pids[@]}"
	if [ -e /dev/ublkc"${dev_id}" ]; then
		echo "/dev/ublkc${dev_id} isn't removed"
		ERR_CODE=255
	fi
}

_kill_round -t loop -q 1 -d 128 "${UBLK_BACKFILES[0]}"
_kill_round -t stripe -q 2 -d 64 --chunk_size 4096 "${UBLK_BACKFILES[@]}"
_kill_round -t loop -q 2 -d 16 "${UBLK_BACKFILES[1]}"

# a device from nothing is as good as the first
dev_id=$(_add_ublk_dev -t loop --fused "${UBLK_BACKFILES[0]}")
_check_add_dev "$TID" $?
_run_fio_verify_io --filename=/dev/ublkb"${dev_id}" --size=4M || ERR_CODE=255

_cleanup_test

# nobody holds the driver any more
for module in ublk_rs ublk_drv; do
	refcnt=$(cat /sys/module/$module/refcnt 2> /dev/null || echo 0)
	if [ "$refcnt" -ne 0 ]; then
		echo "$module is still in use: $refcnt"
		ERR_CODE=255
	fi
done
_show_result "$TID" $ERR_CODE
