#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

_prep_test "batch" "errors, threads that share a queue, buffers that run out, death"

for prog in life_batch life_batch_fused life_batch_late life_batch_share \
	    "life_batch_death -T own_device"; do
	# shellcheck disable=SC2086
	"$(_ublk_test_top_dir)"/$prog
	rc=$?
	# a failure outweighs a test that does not apply
	case $rc in
	0 | "$UBLK_SKIP_CODE") [ $ERR_CODE -ne 0 ] || ERR_CODE=$rc ;;
	*) ERR_CODE=$rc ;;
	esac
done

_cleanup_test
_show_result "$TID" $ERR_CODE
