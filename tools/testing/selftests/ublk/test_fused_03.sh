#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

if ! _have_program fio; then
	exit "$UBLK_SKIP_CODE"
fi

_prep_test "fused" "stripe: write and verify across chunk borders"

_create_backfile 0 32M
_create_backfile 1 32M
_create_backfile 2 32M

# The block sizes are no multiples of the chunks, so that most requests start
# and end somewhere in a chunk. With chunks of 4k, 1M makes five groups if each
# chunk is a secondary, and has 86 pieces if each file is one.
_verify_stripe()
{
	local chunk_size=$1
	local nr_queue=$2
	local by=$3
	local dev_id bs_size
	shift 3

	dev_id=$(_add_ublk_dev -t stripe --fused -q "$nr_queue" -d 32 \
		--chunk_size "$chunk_size" ${by:+--by_chunk} "${UBLK_BACKFILES[@]}")
	_check_add_dev "$TID" $?

	for bs_size in "$@"; do
		_run_fio_verify_io --filename=/dev/ublkb"${dev_id}" \
			--bs="${bs_size%:*}" --size="${bs_size#*:}" || ERR_CODE=255
	done
	_ublk_del_dev "${dev_id}" || ERR_CODE=255
}

_verify_stripe 4096 1 by_chunk 1536:512k 23552:4M 1M:12M
_verify_stripe 4096 1 "" 1536:512k 23552:4M 1M:12M
_verify_stripe 65536 2 "" 4k:1M 101888:8M 1M:12M

_cleanup_test
_show_result "$TID" $ERR_CODE
