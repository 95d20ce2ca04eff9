# dev/guest/fublk-mirror.sh, to be sourced by fublk.sh: the target mirror.
# shellcheck shell=bash disable=SC2034,SC2154

# mirror MODE: a leg that fails under load is dropped, nobody sees an error. That
# leg is a device of ours, all requests of which fail when its server is killed.
mirror() {
	local leg=/dev/ublkb50 leg_pid load
	rm -f "$store/good" "$store/bad"
	truncate -s 48M "$store/good" "$store/bad"
	add --mode "$1" --id 50 --on-death fail file "$store/bad" || return
	leg_pid=$pid
	add --mode "$1" --id 0 --on-death reissue mirror "$leg" "$store/good" || return
	served || return
	cmp -s "$store/good" "$store/bad" || bad "the legs differ" || return
	fio --name=load --filename="$dev" --direct=1 --ioengine=io_uring --iodepth=16 --rw=randrw --bs=16k \
		--offset=16M --size=16M --loops=8 --verify=crc32c --verify_fatal=1 >"$work/fio" 2>&1 &
	load=$!
	sleep 2
	! dead $load || bad "no load" || return
	kill -9 "$leg_pid"
	until_true 20 grep -q "$leg is dropped" "/run/fublk/$id.log" || bad "nobody is told" || return
	wait $load || bad "the load saw the failing leg: $(grep -aE 'err=|verify:' "$work/fio" | head -n 3)" || return
	[ "$(field 'target[-1]')" = "$store/good" ] && [ "$(field 'target|length')" = 3 ] ||
		bad "the leg is still there: $(field target)" || return
	verify --rw=randwrite --bs=4k --offset=24M --size=1M || return
	# It is back, but has missed writes: the next server does not use it either.
	fublk recover 50 >/dev/null || bad "recover 50 fails" || return
	kill -9 "$pid"
	until_true 20 state_is quiesced || bad "the server is dead, the device $(field state)" || return
	fublk recover "$id" >/dev/null || bad "recover fails" || return
	pid=$(field pid)
	same_data recovered || return
	verify --rw=randread --bs=4k --offset=24M --size=1M || return
	# Nor would this one, if it were said to have all data now.
	refused 5 "stop it before" readmit "$leg" || return
	del || return
	cmp -s -n "${data}M" "$store/good" "$work/data" || bad "the good leg has other data" || return
	! cmp -s "$store/good" "$store/bad" || bad "the bad leg has seen all writes" || return
	# Nor does a mirror that is made anew, before all data were copied.
	refused 1 "fublk readmit $leg" add mirror "$leg" "$store/good" || return
	readmit_leg "$leg" || return
	add --mode "$1" mirror "$leg" "$store/good" && same_data readmitted && del || return
	fublk del 50 || bad "del 50 fails"
}

# readmit_leg LEG: it is as good as $store/good
readmit_leg() {
	dd if="$store/good" of="$1" bs=1M oflag=direct conv=fsync,notrunc status=none 2>>"$log" || bad "cannot copy to $1" || return
	fublk readmit "$1" || bad "can not readmit $1"
}

# A mirror, $dev, of $leg, which is a device with the server $leg_pid, and a good file
mirror_of_device() {
	rm -f "$store/good" "$store/bad"
	truncate -s 48M "$store/good" "$store/bad"
	add --mode "$mode" --id 50 --on-death fail file "$store/bad" || return
	leg=/dev/ublkb50 leg_pid=$pid
	add --mode "$mode" --id 6 mirror "$leg" "$store/good"
}

# From now on $leg fails.
leg_fails() {
	kill -9 "$leg_pid"
	until_true 20 eval 'fublk list 50 | grep -q fail-io' || bad "the leg does not fail"
}

# A leg that was dropped is remembered when the device ends with its server, and when it is deleted.
mirror_remembers() {
	local leg leg_pid how
	mirror_of_device && leg_fails || return
	write_data || return
	fublk recover 50 >/dev/null || bad "recover 50 fails" || return
	kill -9 "$pid"
	until_true 20 gone "$dev" || bad "the server is dead, $dev is there" || return
	for how in --take-over --queues=1; do
		refused 1 "fublk readmit $leg" add --id 6 $how mirror "$leg" "$store/good" || return
		add --mode "$mode" --id 6 --degraded mirror "$leg" "$store/good" || return
		[ "$(field 'target[-1]')" = "$store/good" ] && [ "$(field 'target|length')" = 3 ] ||
			bad "the leg is used: $(field target)" || return
		same_data degraded || return
		del || return
	done
	readmit_leg "$leg" || return
	add --mode "$mode" mirror "$leg" && same_data readmitted && del || return
	fublk del 50 || bad "del 50 fails"
}

# What is dirty is written back when the device is deleted, also if a leg fails only then.
mirror_dirty() {
	local leg leg_pid deleting
	mirror_of_device || return
	# Who closes it last would write all of it back.
	exec 9<>"$dev"
	dd if="$work/data" of="$dev" bs=256k conv=notrunc status=none 2>>"$log" || bad "cannot write" || return
	leg_fails || return
	# The device is not gone before it is closed.
	(exec 9>&-; del) & deleting=$!
	until_true 60 gone "$dev" || bad "the disk stays" || return
	exec 9>&-
	wait "$deleting" || return
	cmp -s -n "${data}M" "$store/good" "$work/data" || bad "what was dirty is lost" || return
	refused 1 "fublk readmit $leg" add mirror "$leg" "$store/good" || return
	fublk readmit "$leg" || bad "can not readmit" || return
	fublk del 50 || bad "del 50 fails"
}

# A mirror goes on without a leg that is not there.
mirror_degraded() {
	rm -f "$store/good" "$store/bad" "$store/away"
	truncate -s 48M "$store/good" "$store/bad"
	add --mode "$mode" --on-death reissue mirror "$store/bad" "$store/good" || return
	kill -9 "$pid"
	until_true 20 state_is quiesced || bad "the server is dead, the device $(field state)" || return
	mv "$store/bad" "$store/away"
	fublk recover "$id" >/dev/null 2>>"$log" || bad "recover fails" || return
	pid=$(field pid)
	grep -q "$store/bad is dropped: .*No such file" "/run/fublk/$id.log" || bad "nobody is told" || return
	write_data || return
	# It is back, but has missed that.
	mv "$store/away" "$store/bad"
	kill -9 "$pid"
	until_true 20 state_is quiesced || bad "the server is dead, the device $(field state)" || return
	fublk recover "$id" >/dev/null || bad "recover fails" || return
	pid=$(field pid)
	[ "$(field 'target[-1]')" = "$store/good" ] && [ "$(field 'target|length')" = 3 ] ||
		bad "the leg is used: $(field target)" || return
	same_data recovered || return
	del || return
	refused 1 "fublk readmit $store/bad" add mirror "$store/bad" "$store/good" || return
	readmit_leg "$store/bad" || return
	# Who makes one has to say so.
	refused 1 "No such file" add mirror "$store/none" "$store/good" || return
	add --mode "$mode" --degraded mirror "$store/none" "$store/good" && same_data degraded && del || return
	fublk readmit "$store/none" || bad "can not readmit"
}

# Where one leg's file system can only punch holes, as a tmpfs, no leg is lost by zeroes that
# keep their room.
mirror_zeroes() {
	local rc=0
	mkdir -p "$work/small" && mount -t tmpfs -o size=64M tmpfs "$work/small" || bad "no tmpfs" || return
	mirror_zeroes_on "$work/small/leg" || rc=1
	[ $rc -eq 0 ] || fublk del --all >>"$log" 2>&1
	umount "$work/small"
	return $rc
}
mirror_zeroes_on() {
	rm -f "$store/good"
	truncate -s 48M "$store/good" "$1"
	add --mode "$mode" mirror "$store/good" "$1" || return
	write_data || return
	blkdiscard -z -o 1M -l 1M "$dev" || bad "blkdiscard -z fails" || return
	[ "$(field 'target|length')" = 4 ] || bad "a leg is lost: $(field 'target|join(" ")')" || return
	del || return
	cmp -s "$store/good" "$1" || bad "the legs differ" || return
	cmp -s -i 1M:0 -n 1M "$1" /dev/zero || bad "they are not zero" || return
	cmp -s -n 1M "$1" "$work/data" || bad "they have other data"
}
