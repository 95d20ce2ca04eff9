#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

if ! _have_program fio; then
	exit "$UBLK_SKIP_CODE"
fi

_prep_test "fused" "SQE groups: loop and stripe, write and verify"

_verify()
{
	local dev_id bs_size sizes=$1
	shift

	dev_id=$(_add_ublk_dev "$@")
	_check_add_dev "$TID" $?
	for bs_size in $sizes; do
		_run_fio_verify_io --filename=/dev/ublkb"${dev_id}" \
			--bs="${bs_size%:*}" --size="${bs_size#*:}" || ERR_CODE=255
	done
	_ublk_del_dev "${dev_id}" || ERR_CODE=255
}

_create_backfile 0 32M
_create_backfile 1 32M
_create_backfile 2 32M

_verify "4k:2M 64k:8M 512k:16M" -t loop --group -q 2 -d 64 "${UBLK_BACKFILES[0]}"
# several groups for one request, then vectored members
_verify "1536:512k 1M:8M" -t stripe --group -q 1 -d 32 --chunk_size 4096 --by_chunk \
	"${UBLK_BACKFILES[@]}"
_verify "23552:4M 1M:8M" -t stripe --group -q 2 -d 32 --chunk_size 4096 "${UBLK_BACKFILES[@]}"
# with batches these are fused commands, but for a request of several groups
_verify "4k:2M 1M:8M" -t stripe -b --group -q 1 -d 32 --chunk_size 4096 --by_chunk \
	"${UBLK_BACKFILES[@]}"

_cleanup_test
_show_result "$TID" $ERR_CODE
