# dev/guest/fublk-qcow2.sh, to be sourced by fublk.sh: the target qcow2, against qemu-img.
# shellcheck shell=bash disable=SC2034,SC2154

# An image on what it builds upon: the first MiBs are $work/data, zeroes are behind; and a
# compressed one, of $work/soft.
qcow2_image() {
	rm -f "$store/base" "$store/middle" "$store/q"
	[ -e "$work/soft" ] || od -An -v -tx1 "$work/data" | head -c "${data}M" >"$work/soft"
	head -c 3M "$work/data" >"$store/base"
	{ qemu-img create -q -f qcow2 -F raw -b base -o "$1" "$store/middle" 48M &&
		tail -c 1M "$work/data" >"$store/tail" &&
		qemu-img convert -q -c -f raw -O qcow2 -o "$1" "$work/soft" "$store/compressed" &&
		qemu-io -f qcow2 -c "write -q -s $store/tail 3M 1M" "$store/middle" &&
		qemu-img create -q -f qcow2 -F qcow2 -b middle -o "$1" "$store/q" 48M; } >>"$log" 2>&1 || bad "qemu-img fails" || return
	[ "$(qemu-img check --output=json "$store/compressed" | jq '."compressed-clusters"')" -ge 2 ] ||
		bad "nothing is compressed"
}

# The device has what was compressed.
soft_data() {
	local bs
	for bs in 16k 512k; do
		dd if="$dev" bs=$bs count="${data}M" iflag=direct,count_bytes status=none 2>>"$log" |
			cmp -s - "$work/soft" || bad "compressed: the data differ, read by $bs" || return
	done
}

# image_is_good STATUS: to qemu-img, and it has what the device had. Status 3: some room is lost.
image_is_good() {
	local rc=0
	qemu-img check -q -f qcow2 "$store/q" >>"$log" 2>&1 || rc=$?
	[ $rc -eq 0 ] || [ $rc -eq "$1" ] || bad "qemu-img check: status $rc" || return
	qemu-img compare -q -f qcow2 -F raw "$store/q" "$store/whole" >>"$log" 2>&1 ||
		bad "qemu-img finds other data than the device had"
}

# qcow2 MODE OPTIONS_OF_IMAGE ADD_OPTIONS...
qcow2() {
	qcow2_image "$2" || return
	add --mode "$1" "${@:3}" qcow2 "$store/q" || return
	[ "$(blockdev --getsize64 "$dev")" = $((48 << 20)) ] || bad "wrong size" || return
	same_data "of what it builds upon" || return
	served || return
	refused 5 "in use" add qcow2 "$store/q" || return
	dd if="$dev" of="$store/whole" bs=1M iflag=direct status=none || bad "cannot read" || return
	ended kill "$pid" || return
	image_is_good 0 || return
	cmp -s -n 3M "$store/base" "$work/data" && [ "$(stat -c %s "$store/base")" = $((3 << 20)) ] ||
		bad "what it builds upon was written" || return
	# Compressed clusters, read and replaced.
	mv "$store/compressed" "$store/q"
	add --mode "$1" "${@:3}" --on-death reissue qcow2 "$store/q" || return
	soft_data || return
	io --rw=randwrite --bs=4k --offset=1M --size=1M --io_size=256k || return
	blockdev --flushbufs "$dev"
	dd if="$dev" of="$store/whole" bs=1M iflag=direct status=none || bad "cannot read" || return
	del || return
	image_is_good 0 || return
	rm -f "$store/q" "$store/whole" "$store/middle" "$store/base"
}

# Memory that files without a disk have, in KiB.
shmem() { awk '/^Shmem:/ { print $2 }' /proc/meminfo; }

# qcow2_hidden MODE ADD_OPTIONS...: what no file has as it is to be read, by several at a time
# and again and again: the memory for it is given back
qcow2_hidden() {
	local before i jobs=()
	qcow2_image cluster_size=64k || return
	add --mode "$1" "${@:2}" qcow2 "$store/compressed" || return
	soft_data || return
	before=$(shmem)
	for i in 1 2 3 4; do
		soft_data &
		jobs+=($!)
	done
	for i in "${jobs[@]}"; do
		wait "$i" || bad "several read: the data differ" || return
	done
	i=$(($(shmem) - before))
	[ $i -lt 4096 ] || bad "$i KiB of memory are not given back" || return
	del || return
	# The last sector of a base.
	head -c 1000100 "$work/data" >"$store/base"
	qemu-img create -q -f qcow2 -F raw -b base "$store/short" 2M || bad "qemu-img fails" || return
	add --mode "$1" "${@:2}" qcow2 "$store/short" || return
	for i in 512 4k 1M 512 4k 1M; do
		dd if="$dev" bs=$i iflag=direct status=none | cmp -s -n 1000100 - "$work/data" ||
			bad "the data differ, read by $i" || return
	done
	dd if="$dev" bs=1M iflag=direct status=none | cmp -s -i 1000100:0 -n 1000100 - /dev/zero ||
		bad "there is something behind a base" || return
	del || return
	rm -f "$store"/{q,compressed,short,middle,base}
}

# qcow2_killed MODE ON_DEATH: no write that was answered is lost
qcow2_killed() {
	qcow2_image cluster_size=64k || return
	add --mode "$1" --on-death "$2" --queues 2 qcow2 "$store/q" || return
	write_data || return
	# It allocates clusters all the time, and says which writes were answered.
	fio --name=load --filename="$dev" --direct=1 --ioengine=io_uring --iodepth=8 --rw=randwrite --bs=8k \
		--offset=16M --size=16M --io_size=4M --verify=crc32c --do_verify=0 --rate=1m --verify_state_save=0 >"$work/load" 2>&1 &
	local load=$!
	killed_under_load "$2" || return
	if [ "$2" = reissue ]; then
		wait $load || bad "fio saw an error: $(grep -a err= "$work/load" | head -n 2)" || return
		io --rw=randwrite --bs=8k --offset=16M --size=16M --io_size=4M --verify=crc32c --verify_only --verify_fatal=1 || return
	else
		until_true 60 dead $load || bad "fio hangs" || return
	fi
	same_data recovered || return
	dd if="$dev" of="$store/whole" bs=1M iflag=direct status=none || bad "cannot read" || return
	del || return
	image_is_good 3
}

# another_base: what an image builds upon is another file, or it builds upon another one
another_base() {
	local how
	for how in replaced rebased; do
		qcow2_image cluster_size=64k || return
		cp "$store/middle" "$store/other"
		add --mode "$mode" --on-death reissue qcow2 "$store/q" || return
		write_data || return
		kill -9 "$pid"
		until_true 20 state_is quiesced || bad "the server is dead, the device $(field state)" || return
		if [ $how = replaced ]; then
			mv "$store/other" "$store/middle"
			refused 1 "middle is not the file that device $id was made of, but another one" recover "$id" || return
		else
			qemu-img rebase -u -f qcow2 -F qcow2 -b other "$store/q" || bad "qemu-img fails" || return
			refused 1 "q builds upon other files" recover "$id" || return
		fi
		refused 1 "recover --force $id" add --take-over --id "$id" qcow2 "$store/q" || return
		state_is quiesced || bad "refused, but the device is $(field state)" || return
		fublk recover --force "$id" >/dev/null || bad "recover --force fails" || return
		pid=$(field pid)
		same_data forced || return
		# From now on it is this one.
		kill -9 "$pid"
		until_true 20 state_is quiesced || bad "the server is dead, the device $(field state)" || return
		fublk recover "$id" >/dev/null || bad "recover fails" || return
		pid=$(field pid)
		del || return
	done
	rm -f "$store"/{q,compressed,middle,base,other}
}

# qcow2_again MODE: when a device is gone, its image is free, although its server has something to
# put in order
qcow2_again() {
	local i tracer=''
	qcow2_image cluster_size=64k || return
	for i in 1 2 3; do
		add --mode "$1" qcow2 "$store/q" || bad "again, $i: $why" || return
		write_data || return
		if [ $i = 1 ] && command -v strace >/dev/null; then
			# That takes a while.
			strace -qq -f -p "$pid" -e trace=fdatasync -e inject=fdatasync:delay_enter=1500000 -o /dev/null 2>>"$log" &
			tracer=$!
			until_true 20 grep -qE "TracerPid:[[:space:]]*[1-9]" "/proc/$pid/status" || bad "no strace" || return
		fi
		udevadm settle --timeout=30
		fublk del "$id" 2>>"$log" || bad "del fails" || return
		dead "$pid" || bad "$i: the device is gone, its server is not" || return
	done
	add --mode "$1" qcow2 "$store/q" || return
	same_data again || return
	del || return
	[ -z "$tracer" ] || wait "$tracer" || bad "strace fails" || return
	rm -f "$store"/{q,compressed,middle,base}
}

# What is not served, and that a server which only reads leaves an image alone.
qcow2_refused() {
	rm -f "$store/q"
	refused 1 "no qcow2 image" add qcow2 "$work/data" || return
	qemu-img create -q -f qcow2 -o extended_l2=on "$store/q" 16M
	refused 1 "extended L2" add qcow2 "$store/q" || return
	rm "$store/q"
	qemu-img create -q -f qcow2 "$store/q" 16M
	cp "$store/q" "$store/whole"
	add --mode "$1" qcow2 --read-only "$store/q" || return
	[ "$(blockdev --getro "$dev")" = 1 ] || bad "not read-only" || return
	! write_data || bad "read-only, but data were written" || return
	dd if="$dev" bs=1M iflag=direct status=none | cmp -s -n 16M - /dev/zero || bad "not all zeroes" || return
	del || return
	cmp -s "$store/q" "$store/whole" || bad "the image was written"
}
