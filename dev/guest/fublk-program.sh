# dev/guest/fublk-program.sh, to be sourced by fublk.sh: the program: what it says, who
# may run it, how it starts and ends, udev, and the devices of a file.
# shellcheck shell=bash disable=SC2154

# What does not work is said clearly, and leaves nothing behind.
messages() {
	head -c 700 /dev/zero >"$store/odd"
	: >"$store/empty"
	refused 1 "no multiple of the block" add file "$store/odd" || return
	refused 1 "is empty" add file "$store/empty" || return
	refused 1 "No such file" add file "$store/none" || return
	refused 1 "neither a regular file" add file "$store" || return
	refused 6 "no device 77" del 77 || return
	refused 6 "no device 77" recover 77 || return
	refused 6 "no device 77" stop 77 || return
	refused 6 "no device 77" list 77 || return
	refused 1 "no mirror has dropped it" readmit "$store/odd" || return
	[ "$DRIVER" != c ] || refused 1 "no mode fused" add --mode fused null || return
	add --id 7 null || return
	[ "$id" = 7 ] || bad "asked for number 7, got $id" || return
	refused 5 "a device 7 already" add --id 7 null || return
	fublk features | grep -qx USER_COPY || bad "features: $(fublk features)" || return
	setpriv --reuid=65534 --clear-groups --inh-caps=-all "$fublk" features >"$work/err" 2>&1
	[ $? -eq 4 ] && grep -q "be root" "$work/err" || bad "nobody is told: $(cat "$work/err")" || return
	del
}

# In the foreground, told to be ready as systemd wants it, ended by SIGTERM.
foreground() {
	python3 - "$fublk" <<'PYTHON' >"$work/err" 2>&1 || bad "$(tail -n 1 "$work/err")"
import os, signal, socket, subprocess, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind("\0fublk-test")
s.settimeout(60)
p = subprocess.Popen([sys.argv[1], "add", "--foreground", "--id", "5", "null"], stdout=subprocess.PIPE,
                     text=True, env={"NOTIFY_SOCKET": "@fublk-test"})
assert s.recv(100) == b"READY=1\nSTATUS=/dev/ublkb5"
assert p.stdout.readline() == "/dev/ublkb5\n"
assert os.path.exists("/dev/ublkb5")
p.terminate()
assert s.recv(100) == b"STOPPING=1"
assert p.wait(60) == 0, p.returncode
assert not os.path.exists("/dev/ublkb5") and not os.path.exists("/dev/ublkc5")
PYTHON
}

# with_rules COMMAND...: with our rules for udev, for the program where it is
with_rules() {
	local rc=0
	mkdir -p /run/udev/rules.d && sed "s|/usr/bin/fublk|$fublk|" "$ROOT/server/system/60-fublk.rules" \
		>/run/udev/rules.d/60-fublk.rules && udevadm control --reload || bad "no udev" || return
	udevadm trigger --settle --name-match=/dev/ublk-control
	"$@" || rc=1
	rm /run/udev/rules.d/60-fublk.rules
	chmod 600 /dev/ublk-control
	udevadm control --reload
	return $rc
}

# as USER ARGUMENTS...: our program, run by somebody
as() {
	mkdir -p "$work/user-$1" && chown "$1:$1" "$work/user-$1" && chmod a+x "$work"
	XDG_RUNTIME_DIR=$work/user-$1 timeout -k 5 120 setpriv --reuid="$1" --regid="$1" --clear-groups \
		--inh-caps=-all "$fublk" "${@:2}" </dev/null
}

# denied STATUS WORDS USER ARGUMENTS...
denied() {
	local said rc=0
	said=$(as "${@:3}" 2>&1) || rc=$?
	[ $rc -eq "$1" ] || bad "${*:3}: status $rc: $said" || return
	case $said in *"$2"*) ;; *) bad "${*:3} says: $said" ;; esac
}

# An ordinary user adds, serves and deletes a device, and no other user does.
# shellcheck disable=SC2086 # numbers, and lists of words
ordinary() {
	local u=1000 other=1001 how hows file=$store/user
	denied 4 "be root, or have the udev rules" $u features || return
	with_rules ordinary_by_rules
}
# shellcheck disable=SC2086
ordinary_by_rules() {
	chmod 755 "$store"
	truncate -s 48M "$file" && chown $u:$u "$file"
	if [ "$DRIVER" = c ]; then
		denied 4 "no fused commands" $u add null
		return
	fi
	denied 4 "only mode fused" $u add --mode copy file "$file" || return
	denied 4 "not for ordinary users" $u add mirror "$file" || return
	denied 4 "Permission denied" $other add file "$file" || return
	[ "$all" = all ] && hows=("null --size 64M" "file $file" "file --direct $file") || hows=("file $file")
	for how in "${hows[@]}"; do
		dev=$(as $u add $how 2>"$work/err") || bad "add $how: $(cat "$work/err")" || return
		id=${dev#/dev/ublkb} pid=$(field pid)
		udevadm settle --timeout=30
		[ "$(stat -c %u:%g:%a "$dev" "/dev/ublkc$id" | sort -u)" = $u:$u:600 ] ||
			bad "$(stat -c '%n %U:%G %a' "$dev" "/dev/ublkc$id")" || return
		[ "$(stat -c %u "/proc/$pid")" = $u ] || bad "the server is not of user $u" || return
		fublk list --json "$id" | jq -r '.[0].features[]' | grep -qx UNPRIVILEGED_DEV || bad "it is privileged" || return
		as $u list "$id" | grep -q "^$dev *live .* ${how%% *}" || bad "list: $(as $u list "$id" 2>&1)" || return
		denied 4 "is not yours" $other del "$id" || return
		denied 4 "is not yours" $other list "$id" || return
		! setpriv --reuid=$other --regid=$other --clear-groups dd if="$dev" of=/dev/null bs=4k count=1 2>/dev/null ||
			bad "another user reads it" || return
		if [ "${how%% *}" = file ]; then
			setpriv --reuid=$u --regid=$u --clear-groups dd of="$dev" bs=256k oflag=direct conv=fsync \
				status=none <"$work/data" 2>>"$log" || bad "user $u can not write to $dev" || return
			setpriv --reuid=$u --regid=$u --clear-groups dd if="$dev" bs=64k count=${data}M iflag=direct,count_bytes \
				status=none 2>>"$log" | cmp -s - "$work/data" || bad "the data differ" || return
			setpriv --reuid=$u --regid=$u --clear-groups blkdiscard -z -o 8M -l 1M "$dev" || bad "no zeroes" || return
		fi
		as $u del "$id" 2>"$work/err" || bad "del: $(cat "$work/err")" || return
		until_true 10 dead "$pid" && until_true 10 gone "$dev" || bad "$dev or its server is still there" || return
		[ "$(ls -A "$work/user-$u/fublk")" = lock ] || bad "left: $(ls -A "$work/user-$u/fublk")" || return
		sync "$file"
		[ "${how%% *}" = null ] || cmp -s -n ${data}M "$file" "$work/data" || bad "the file has other data" || return
	done
	# What a user is just making, or has left, is not for root to take over.
	dev=$(as $u add file "$file" 2>"$work/err") || bad "add: $(cat "$work/err")" || return
	id=${dev#/dev/ublkb} pid=$(field pid)
	kill -9 "$pid"
	until_true 20 state_is dead || bad "the server is dead, the device $(field state)" || return
	refused 5 "is that of an ordinary user" add --take-over --id "$id" null || return
	as $u del "$id" || bad "del fails" || return
	rm "$file"
}

# Our rules give a device a name.
udev() { with_rules udev_name; }
udev_name() {
	add --id 3 null || return
	udevadm settle --timeout=30
	[ "$(readlink -f /dev/disk/by-id/ublk-3)" = /dev/ublkb3 ] || bad "no name: $(ls /dev/disk/by-id 2>&1)" || return
	grep -qF '[none]' /sys/block/ublkb3/queue/scheduler || bad "there is a scheduler" || return
	[ "$(stat -c %u:%a "/dev/ublkc3")" = 0:600 ] || bad "/dev/ublkc3: $(stat -c '%U %a' /dev/ublkc3)" || return
	del
}

# The devices of a file: all or none, and looked after.
devices_of_a_file() {
	truncate -s 16M "$store/one"
	cat >"$work/two.toml" <<-TOML
		[[device]]
		id = 3
		mode = "$mode"
		on_death = "reissue"
		target = ["file", "$store/one"]
		[[device]]
		id = 4
		target = ["file", "--read-only", "/dev/ublkb3"]
	TOML
	sed 's/--read-only/--red-only/' "$work/two.toml" >"$work/wrong.toml"
	refused 1 "wrong.toml:8: target: unexpected argument '--red-only'" run "$work/wrong.toml" || return
	# The second is not there.
	sed 's|/dev/ublkb3|/dev/ublkb9|' "$work/two.toml" >"$work/half.toml"
	! fublk run "$work/half.toml" >/dev/null 2>&1 && gone /dev/ublkb3 || bad "half of a file is served" || return
	[ "$(fublk run "$work/two.toml" 2>>"$log")" = $'/dev/ublkb3\n/dev/ublkb4' ] || bad "run fails" || return
	id=3 dev=/dev/ublkb3 pid=$(field pid)
	# What is served stays as it is; what is another device does, too.
	[ "$(fublk run "$work/two.toml" 2>>"$log")" = $'/dev/ublkb3\n/dev/ublkb4' ] || bad "run fails a second time" || return
	sed "s|\"file\", \"$store/one\"|\"null\"|" "$work/two.toml" >"$work/other.toml"
	fublk run "$work/other.toml" >"$work/err" 2>&1
	[ $? -eq 5 ] && grep -q "device 3 has a server" "$work/err" || bad "another one: $(cat "$work/err")" || return
	[ "$(field pid)" = "$pid" ] && state_is live || bad "it has another server" || return
	udevadm settle --timeout=30
	! grep -q 'is there, mode' /run/fublk/[34].log || bad "a server tells too much" || return
	fublk del 4 && del || bad "del fails" || return
	fublk -v run "$work/two.toml" >/dev/null 2>&1 || bad "run -v fails" || return
	id=3 pid=$(field pid)
	until_true 20 grep -q 'ublkb3 is there, mode' /run/fublk/3.log && until_true 20 grep -q 'ublkb4 is there, mode' /run/fublk/4.log ||
		bad "-v is not for the servers: $(cat /run/fublk/[34].log)" || return
	udevadm settle --timeout=30
	fublk del 4 && del || bad "del fails" || return
	python3 - "$fublk" "$work/two.toml" <<'PYTHON' >"$work/err" 2>&1 || bad "$(tail -n 1 "$work/err")"
import json, os, signal, socket, subprocess, sys, time
fublk, file = sys.argv[1:]
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind("\0fublk-run")
s.settimeout(60)
p = subprocess.Popen([fublk, "run", "--foreground", file], stdout=subprocess.PIPE, text=True,
                     env={"NOTIFY_SOCKET": "@fublk-run"})
assert s.recv(100) == b"READY=1\nSTATUS=2 devices"
assert p.stdout.readline() + p.stdout.readline() == "/dev/ublkb3\n/dev/ublkb4\n"
def info(n):
    return json.loads(subprocess.check_output([fublk, "list", "--json", str(n)]))[0]
old = info(3)["pid"]
os.kill(old, signal.SIGKILL)
# Reads wait for the next server.
with open("/dev/ublkb3", "rb", buffering=0) as f:
    assert len(f.read(65536)) == 65536
end = time.time() + 30
while info(3)["pid"] == old or info(3)["state"] != "live":
    assert time.time() < end, info(3)
    time.sleep(0.1)
p.terminate()
assert s.recv(100) == b"STOPPING=1"
assert p.wait(60) == 0, p.returncode
for name in "b3", "c3", "b4", "c4":
    assert not os.path.exists("/dev/ublk" + name), name
PYTHON
}

# What was there before a file was run is not ended because another device of it fails.
run_keeps() {
	local p rc=0
	truncate -s 48M "$store/one"
	cat >"$work/half.toml" <<-TOML
		[[device]]
		id = 3
		on_death = "reissue"
		target = ["file", "$store/one"]
		[[device]]
		id = 4
		target = ["file", "/dev/none"]
	TOML
	add --mode "$mode" --id 3 --on-death reissue file "$store/one" || return
	mkfs.ext4 -q -F "$dev" && mount "$dev" "$mnt" && echo here >"$mnt/word" && sync -f "$mnt" || bad "cannot mount" || return
	kill -9 "$pid"
	until_true 20 state_is quiesced || bad "the server is dead, the device $(field state)" || return
	# Taken over; then it has a server.
	for p in over has; do
		! fublk run "$work/half.toml" >"$work/out1" 2>>"$log" || bad "half of a file is served" || return
		[ "$(cat "$work/out1")" = /dev/ublkb3 ] && state_is live || bad "$p: the device is $(field state)" || return
	done
	pid=$(field pid)
	kill -9 "$pid"
	until_true 20 state_is quiesced || bad "the server is dead, the device $(field state)" || return
	"$fublk" run --foreground "$work/half.toml" >/dev/null 2>"$work/err" &
	p=$!
	until_true 20 grep -q "/dev/none: No such file" "$work/err" || bad "device 4 does not fail: $(cat "$work/err")" || return
	sleep 1
	state_is live && ! dead $p || bad "the device is $(field state): $(cat "$work/err")" || return
	echo 3 >/proc/sys/vm/drop_caches
	[ "$(cat "$mnt/word")" = here ] || bad "the file system is gone" || return
	# It is looked after.
	pid=$(field pid)
	kill -9 "$pid"
	until_true 30 replaced || bad "no new server: $(cat "$work/err")" || return
	pid=$(field pid)
	umount "$mnt" || bad "cannot unmount" || return
	udevadm settle --timeout=30
	kill $p
	wait $p || rc=$?
	[ $rc -ne 0 ] || bad "device 4 has failed, but that is not told" || return
	nothing_left_of_it
}

# stacked HOW: what is dirty on a device that is made of another one gets to that before it
# ends, too.
stacked() {
	local p i
	rm -f "$store/one" "$store/two"
	truncate -s 48M "$store/one" "$store/two"
	cat >"$work/stacked.toml" <<-TOML
		[[device]]
		id = 3
		target = ["file", "$store/one"]
		[[device]]
		id = 4
		target = ["mirror", "/dev/ublkb3", "$store/two"]
	TOML
	id=4 dev=/dev/ublkb4
	if [ "$1" != del ]; then
		setsid "$fublk" run --foreground "$work/stacked.toml" >/dev/null 2>>"$log" &
		p=$!
		until_true 60 eval 'state_is live 2>/dev/null' || bad "there is no device" || return
	else
		fublk run "$work/stacked.toml" >/dev/null 2>>"$log" || bad "run fails" || return
	fi
	pid=$(field pid)
	udevadm settle --timeout=30
	# Who closes it last would write all of it back.
	exec 9<>"$dev"
	# So much that it takes a while.
	for i in {0..10}; do
		dd if="$work/data" of="$dev" bs="${data}M" seek="$i" conv=notrunc status=none 2>>"$log" || bad "cannot write" || return
	done
	case $1 in
	term) kill $p ;;
	# As a terminal does.
	ctrl_c) kill -INT -- -$p ;;
	del)
		(exec 9>&-; fublk del --all) 2>>"$log" &
		p=$!
		;;
	esac
	# The device is not gone before it is closed.
	until_true 60 gone "$dev" || bad "the disk stays" || return
	exec 9>&-
	wait $p || bad "its end fails" || return
	nothing_left_of_it || return
	gone /dev/ublkb3 || bad "the other one is there" || return
	[ -z "$(ls -A /var/lib/fublk/dropped)" ] || bad "a leg was dropped" || return
	cmp -s "$store/one" "$store/two" || bad "the legs differ" || return
	for i in {0..10}; do
		cmp -s -i $((i * data))M:0 -n "${data}M" "$store/one" "$work/data" || bad "what was dirty is lost" || return
	done
}

# Who can not be told is no reason to leave servers alone; but a new device for which nobody
# waits any more ends.
untold() {
	local p rc=0
	cat >"$work/two.toml" <<-TOML
		[[device]]
		id = 3
		target = ["null"]
		[[device]]
		id = 4
		target = ["null"]
	TOML
	"$fublk" run --foreground "$work/two.toml" >/dev/full 2>>"$log" &
	p=$!
	id=4 dev=/dev/ublkb4
	until_true 20 eval 'state_is live 2>/dev/null' || bad "there is no second device" || return
	pid=$(field pid)
	sleep 1
	! dead $p || bad "they are left alone" || return
	udevadm settle --timeout=30
	kill $p
	wait $p || bad "it fails" || return
	nothing_left_of_it && gone /dev/ublkb3 || bad "a device is there" || return
	# As when Ctrl-C has ended `fublk add` meanwhile.
	FUBLK_BACKGROUND=1 timeout -k 5 30 "$fublk" add --id 5 null > >(exec true) 2>>"$log" || rc=$?
	id=5 dev=/dev/ublkb5 pid=0
	[ $rc -eq 0 ] || bad "status $rc: a device for nobody goes on" || return
	nothing_left_of_it
}

# The server of before was killed; the same command goes on.
take_over() {
	truncate -s 16M "$store/over"
	add --mode "$mode" --id 6 --on-death reissue file "$store/over" || return
	refused 5 "device 6 has a server" add --take-over --id 6 file "$store/over" || return
	kill -9 "$pid"
	until_true 20 state_is quiesced || bad "the server is dead, the device $(field state)" || return
	refused 5 "another one" add --take-over --id 6 null || return
	add --take-over --id 6 file "$store/over" || return
	verify --rw=write --bs=64k --size=1M || return
	del || return
	# Where it ends with its server, a number is left.
	add --mode "$mode" --id 6 null || return
	kill -9 "$pid"
	until_true 20 gone "$dev" || bad "the server is dead, $dev is there" || return
	add --take-over --id 6 file "$store/over" || return
	del
}

other_node() { [ "$(stat -c %i "/dev/ublkc$id" 2>/dev/null)" != "$1" ]; }
# A device that is just being made looks dead, but who wants to make one with its number does
# not delete it.
made_twice() {
	local first second was rc1=0 rc2=0 deleted=no fifo=/run/fublk/fifo
	id=6 dev=/dev/ublkb6
	truncate -s 16M "$store/over"
	# Nobody reads: it waits there, between the two commands that make a device.
	mkfifo "/run/fublk/$id.new" || bad "no fifo" || return
	fublk add --mode "$mode" --take-over --id $id file "$store/over" >"$work/out1" 2>&1 &
	first=$!
	until_true 60 eval 'state_is dead 2>/dev/null' || bad "no device: $(cat "$work/out1")" || return
	was=$(stat -c %i "/dev/ublkc$id")
	fublk add --take-over --id $id null >"$work/out2" 2>&1 &
	second=$!
	! until_true 10 other_node "$was" || deleted=yes
	# What it writes gets to where it belongs.
	mv "/run/fublk/$id.new" $fifo && timeout 20 cat $fifo >"/run/fublk/$id.new"
	rm $fifo
	wait $first || rc1=$?
	wait $second || rc2=$?
	[ $deleted = no ] || bad "it was deleted by the other one" || return
	[ $rc1 -eq 0 ] || bad "it fails: $(cat "$work/out1")" || return
	[ $rc2 -eq 5 ] && grep -q 'device 6 has a server' "$work/out2" || bad "the other one: $rc2, $(cat "$work/out2")" || return
	pid=$(field pid)
	state_is live && [ "$(field 'target[0]')" = file ] || bad "list: $(fublk list)" || return
	write_data && same_data "made twice" || return
	del
}

# A server is asked to end before it has a device.
early_signal() {
	local p
	truncate -s 48M "$store/file"
	add --mode "$mode" --on-death reissue file "$store/file" || return
	kill -9 "$pid"
	until_true 20 state_is quiesced || bad "the server is dead, the device $(field state)" || return
	exec 8<"$store/file"
	flock 8
	"$fublk" recover --foreground "$id" >/dev/null 2>"$work/err" &
	p=$!
	sleep 2
	! dead $p || bad "it does not wait: $(cat "$work/err")" || return
	kill $p
	until_true 5 dead $p || { kill -9 $p; bad "SIGTERM is not heard"; return; }
	exec 8<&-
	fublk recover "$id" >/dev/null || bad "recover fails" || return
	pid=$(field pid)
	del
}

# What a killed server has submitted is under way. Nobody else gets its disk before that has ended,
# or its file. The disk takes 10 s: what has to be seen meanwhile is, on a slow machine as well.
under_way() {
	local disk=/sys/kernel/config/nullb/slow rc=0
	mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config || bad "no configfs" || return
	mkdir $disk && echo 64 >$disk/size && echo 2 >$disk/irqmode && echo 10000000000 >$disk/completion_nsec &&
		echo 1 >$disk/power || bad "no slow disk" || return
	under_way_on /dev/slow || rc=1
	rmdir $disk
	return $rc
}
writes() { [ "$(awk '{ print $2 }' "/sys/block/${1#/dev/}/inflight")" -eq "$2" ]; }
under_way_on() {
	add --mode "$mode" file --direct "$1" || return
	dd if=/dev/zero of="$dev" bs=4k count=1 oflag=direct status=none 2>>"$log" &
	until_true 60 writes "$1" 1 || bad "nothing is written to $1" || return
	kill -9 "$pid"
	until_true 20 dead "$pid" || bad "the server lives" || return
	refused 5 "is in use" add file "$1" || return
	writes "$1" 1 || bad "the write has ended too early" || return
	until_true 60 writes "$1" 0 || bad "the write does not end" || return
	wait $!
	del || return
	add --mode "$mode" file "$1" || return
	del
}
