#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

_prep_test "life" "a server is killed while it stops its own device, or never looks"

for prog in life_exit life_lost; do
	"$(_ublk_test_top_dir)"/$prog
	ret=$?
	# a failure outweighs what was skipped
	[ $ret -eq 0 ] || [ $ERR_CODE -eq 1 ] || ERR_CODE=$ret
done

_cleanup_test
_show_result "$TID" $ERR_CODE
