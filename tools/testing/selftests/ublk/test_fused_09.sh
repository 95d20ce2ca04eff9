#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A server that is killed, or sent away, under load and replaced: the block
# device goes on, in each way of moving data, with requests that are held and
# requests that are sent again.

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

recover()
{
	if ! run_io_and_recover 256M "$@"; then
		echo "$TID failure: $*"
		touch "${UBLK_TEST_DIR}/failed"
	fi
}

_have_feature "FUSED_CMD" || exit "$UBLK_SKIP_CODE"
_have_program fio || exit "$UBLK_SKIP_CODE"

_prep_test "recover" "recovery in all modes"
_create_backfile 0 256M
_create_backfile 1 128M
_create_backfile 2 128M

for action in ${1:-kill_daemon quiesce_dev}; do
	recover $action -t null -q 2 -r 1 -g &
	recover $action -t loop -q 2 -r 1 "${UBLK_BACKFILES[0]}" &
	recover $action -t stripe -q 2 -r 1 -i 1 "${UBLK_BACKFILES[@]:1}" &
	wait
	recover $action -t null -q 2 -r 1 -i 1 -z &
	recover $action -t loop -q 2 -r 1 -i 1 --fused "${UBLK_BACKFILES[0]}" &
	recover $action -t stripe -q 2 -r 1 --auto_zc "${UBLK_BACKFILES[@]:1}" &
	wait
done

[ ! -e "${UBLK_TEST_DIR}/failed" ] || ERR_CODE=255
_cleanup_test
_show_result $TID $ERR_CODE
