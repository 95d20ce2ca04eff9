# dev/guest/fublk-nbd.sh, to be sourced by fublk.sh: the target nbd, against qemu-nbd and
# nbdkit.
# shellcheck shell=bash disable=SC2034,SC2154

nbd_pid='' uri='' image=''

# nbd_start KIND OPTIONS...: a server of $image; $uri is where. With "again", as before.
nbd_start() {
	[ "$1" = again ] || nbd_how=("$@")
	set -- "${nbd_how[@]}"
	local socket=$work/nbd.sock
	rm -f "$socket"
	case $1 in
	qemu)
		uri="nbd+unix:///disk%20one?socket=$socket"
		qemu-nbd -t -f raw -e 8 --discard=unmap -x 'disk one' -k "$socket" "${@:2}" "$image" >>"$log" 2>&1 &
		;;
	tcp)
		uri=nbd://localhost:10999/disk
		qemu-nbd -t -f raw -e 8 --discard=unmap -x disk -b localhost -p 10999 "${@:2}" "$image" >>"$log" 2>&1 &
		;;
	nbdkit)
		uri="nbd+unix:///?socket=$socket"
		nbdkit -f -U "$socket" "${@:2}" >>"$log" 2>&1 &
		;;
	esac
	nbd_pid=$!
	# bash need not tell how it ends.
	disown "$nbd_pid"
	case $1 in
	tcp) until_true 20 nbd_listens || bad "no server: $(tail -n 1 "$log")" ;;
	*) until_true 20 test -S "$socket" || bad "no server: $(tail -n 1 "$log")" ;;
	esac
}

# Without talking to it.
nbd_listens() { grep -qs ':2AF7 0*:0000 0A ' /proc/net/tcp /proc/net/tcp6; }

nbd_stop() {
	[ -n "$nbd_pid" ] || return 0
	kill "${1:--TERM}" "$nbd_pid" && until_true 20 dead "$nbd_pid" || bad "the NBD server survives" || return
	nbd_pid=
}

nbd_image() {
	image=$store/nbd
	rm -f "$image"
	truncate -s 48M "$image"
}

# nbd MODE ADD_OPTIONS SERVER...: written, ended, data in the file
nbd() {
	nbd_image
	nbd_start "${@:3}" || return
	# shellcheck disable=SC2086
	add --mode "$1" $2 nbd "$uri" || return
	[ "$(field 'target[-1]')" = "$uri" ] || bad "list: $(field target)" || return
	[ "$(blockdev --getsize64 "$dev")" = $((48 << 20)) ] || bad "wrong size" || return
	served || return
	ended kill "$pid" || return
	nbd_stop || return
	cmp -s -n "${data}M" "$image" "$work/data" || bad "the file has other data than the device"
}

# Write and verify until $work/stop is there.
nbd_load() {
	while gone "$work/stop"; do
		fio --name=load --filename="$dev" --direct=1 --ioengine=io_uring --iodepth=16 --rw=randrw --bsrange=4k-128k \
			--offset=16M --size=16M --verify=crc32c --verify_fatal=1 --verify_state_save=0 >"$work/load" 2>&1 || return
	done
}

# nbd_killed MODE SERVER...: the server dies under load and comes back, again and again;
# nobody sees an error, but who flushes is told that it may have lost something
nbd_killed() {
	local load i
	nbd_image
	nbd_start "${@:2}" || return
	add --mode "$1" --queues 2 nbd "$uri" || return
	write_data || return
	rm -f "$work/stop"
	nbd_load &
	load=$!
	for i in 1 2 3; do
		sleep 1.5
		! dead $load || bad "no load: $(grep -aE 'err=|verify:' "$work/load" | head -n 3)" || return
		nbd_stop -KILL || return
		sleep "0.$i"
		nbd_start again || return
	done
	sleep 1
	touch "$work/stop"
	wait $load || bad "the load saw a death: $(grep -aE 'err=|verify:' "$work/load" | head -n 3)" || return
	i=$(grep -c 'connected to' "/run/fublk/$id.log")
	[ "$i" -ge 4 ] || bad "only $i connections were made again" || return
	! flush || bad "a flush says that nothing is lost" || return
	flush || bad "that is told twice" || return
	verify --rw=randwrite --bs=4k --offset=32M --size=1M || return
	same_data "killed" || return
	del || return
	nbd_stop
}

# nbd_recover MODE ON_DEATH: our server dies, theirs does not
nbd_recover() {
	nbd_image
	nbd_start qemu || return
	add --mode "$1" --on-death "$2" --queues 2 nbd "$uri" || return
	write_data || return
	killed_under_load "$2" || return
	same_data recovered || return
	verify --rw=randwrite --bs=4k --offset=16M --size=1M || return
	del || return
	nbd_stop || return
	cmp -s -n "${data}M" "$image" "$work/data" || bad "the file has other data than the device"
}

# nbd_gone MODE: the server does not come back in time, but later
nbd_gone() {
	local before
	nbd_image
	nbd_start qemu || return
	add --mode "$1" nbd --reconnect 2 "$uri" || return
	write_data || return
	nbd_stop -KILL || return
	before=$SECONDS
	! dd if="$dev" of=/dev/null bs=4k count=1 iflag=direct 2>>"$log" || bad "a good read without a server" || return
	[ $((SECONDS - before)) -ge 1 ] && [ $((SECONDS - before)) -lt 20 ] || bad "an error after $((SECONDS - before)) s" || return
	! dd if="$dev" of=/dev/null bs=4k count=1 iflag=direct 2>>"$log" || bad "a good read without a server" || return
	nbd_start again || return
	until_true 20 same_data "gone" || return
	del || return
	nbd_stop
}

# nbd_errors MODE: replies that are late, and errors
nbd_errors() {
	nbd_image
	nbd_start nbdkit --filter=delay --filter=error file "$image" rdelay=5ms wdelay=5ms \
		error=ENOSPC error-rate=100% error-file="$work/inject" || return
	add --mode "$1" --queues 2 nbd "$uri" || return
	write_data || return
	verify --rw=randrw --bsrange=4k-64k --offset=16M --size=1M || return
	touch "$work/inject"
	! same_data "injected" || bad "errors are not seen" || return
	! write_data || bad "errors are not seen" || return
	dd if=/dev/zero of="$dev" bs=4k count=1 seek=8k oflag=direct 2>&1 | grep -q 'No space left' ||
		bad "no room, but not told" || return
	rm "$work/inject"
	same_data "after the errors" || return
	del || return
	nbd_stop
}

# nbd_blocks MODE: a server that wants blocks gets them
nbd_blocks() {
	local queue
	nbd_image
	nbd_start nbdkit --filter=blocksize-policy file "$image" blocksize-minimum=4096 blocksize-preferred=16384 \
		blocksize-maximum=65536 blocksize-error-policy=error || return
	add --mode "$1" nbd "$uri" || return
	queue=/sys/block/${dev#/dev/}/queue
	[ "$(cat "$queue/logical_block_size" "$queue/optimal_io_size" "$queue/max_hw_sectors_kb" | xargs)" = "4096 16384 64" ] ||
		bad "blocks: $(cat "$queue/logical_block_size" "$queue/optimal_io_size" "$queue/max_hw_sectors_kb" | xargs)" || return
	verify --rw=randrw --bsrange=4k-512k --offset=16M --size=4M || return
	write_data || return
	same_data "blocks" || return
	del || return
	nbd_stop
}

# nbd_resize MODE: a server that takes no more clients can not be asked how large its export is
nbd_resize() {
	nbd_image
	nbd_start qemu -e 2 || return
	add --mode "$1" --queues 2 nbd "$uri" || return
	refused 1 "resize needs one more connection to the server" resize "$id" || return
	refused 1 "resize needs one more connection to the server" resize "$id" 48M || return
	fublk resize --force "$id" 40M 2>>"$log" && [ "$(blockdev --getsize64 "$dev")" = $((40 << 20)) ] ||
		bad "can not shrink" || return
	write_data || return
	same_data "smaller" || return
	del || return
	add --mode "$1" nbd "$uri" || return
	refused 1 "enlarge them first" resize "$id" 64M || return
	refused 1 "enlarge them first" resize --force "$id" 64M || return
	del || return
	nbd_stop
}

nbd_read_only() {
	nbd_image
	cp "$work/data" "$image"
	nbd_start qemu -r || return
	add --mode "$1" nbd "$uri" || return
	[ "$(blockdev --getro "$dev")" = 1 ] || bad "not read-only" || return
	! write_data || bad "read-only, but data were written" || return
	same_data "read-only" || return
	del || return
	nbd_stop
}

# nbd_silence MODE: packets are lost without a word; that is noticed after a minute
nbd_silence() {
	local reader
	nbd_image
	nbd_start tcp || return
	add --mode "$1" nbd --reconnect 300 "$uri" || return
	write_data || return
	ip link set lo down || bad "lo stays up" || return
	same_data "silence" &
	reader=$!
	until_true 100 grep -q 'no connection' "/run/fublk/$id.log" || bad "nobody notices" || return
	! dead $reader || bad "an answer out of nowhere" || return
	ip link set lo up || bad "lo stays down" || return
	wait $reader || bad "wrong data, or an error" || return
	del || return
	nbd_stop
}

nbd_removed() {
	local load
	nbd_image
	nbd_start qemu || return
	add --mode "$1" --queues 2 nbd --reconnect 3 "$uri" || return
	fio --name=load --filename="$dev" --direct=1 --ioengine=io_uring --iodepth=64 --rw=randrw --bs=16k \
		--size=32M --time_based --runtime=60 >/dev/null 2>&1 &
	load=$!
	sleep 2
	! dead $load || bad "no load" || return
	# Without a server, too.
	nbd_stop -KILL || return
	del || return
	until_true 30 dead $load || bad "requests hang"
}

nbd_messages() {
	nbd_image
	fublk add nbd nbds://localhost/ 2>&1 | grep -q 'there is no TLS' || bad "TLS is not refused clearly" || return
	refused 1 "No such file" add nbd "nbd+unix:///?socket=$work/none" || return
	refused 1 "refused" add nbd nbd://localhost:10999/ || return
	nbd_start qemu || return
	refused 1 "no such export" add nbd "nbd+unix:///other?socket=$work/nbd.sock" || return
	nbd_stop || return
	nbd_start nbdkit null 1M --filter=multi-conn multi-conn-mode=disable || return
	refused 1 "one queue only" add --queues 2 nbd "$uri" || return
	nbd_stop || return
	nbd_start nbdkit null 700 || return
	refused 1 "no multiple of the block" add nbd "$uri" || return
	nbd_stop
}

# After a failure.
nbd_clean_up() {
	rm -f "$work/inject"
	ip link set lo up
	[ -z "$nbd_pid" ] || kill -9 "$nbd_pid" 2>/dev/null
	nbd_pid=
}

nbd_cases() {
	local mode first=${modes[0]}
	also nbd_messages
	run nbd "$first" '--queues 2' qemu
	run nbd_killed "$first" qemu
	[ "$all" = all ] || return 0
	run nbd_errors "$first"
	run nbd_recover "$first" reissue
	for mode in "${modes[@]}"; do
		[ "$mode" = "$first" ] || run nbd "$mode" '--queues 2' qemu
		[ "$mode" = "$first" ] || run nbd_killed "$mode" tcp
		run nbd_removed "$mode"
	done
	run nbd "$first" '--depth 16' tcp
	run nbd "$first" '' nbdkit file "$store/nbd"
	run nbd "$first" '--queues 2 --batch on' qemu
	run nbd_recover "$first" wait
	run nbd_recover "$first" fail
	run nbd_gone "$first"
	run nbd_silence "$first"
	run nbd_blocks "$first"
	run nbd_resize "$first"
	run nbd_read_only "$first"
}
