// SPDX-License-Identifier: GPL-2.0

//! The target against a server that does wrong: no read is good that has wrong data, all
//! requests are answered, and nothing is lost with a connection.

use super::{
    Nbd,
    peer::{Evil, Peer, Script},
    uri::Uri,
};
use crate::model::{Random, Scratch};
use std::{
    process::{Child, Command},
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};
use ublk_server::{
    Errno, Target,
    sim::{Ask, Sim},
};

const LIMIT: Duration = Duration::from_secs(30);

fn open(peer: &Peer, limit: Duration) -> Sim<Nbd> {
    Sim::new(Nbd::open(&peer.uri(), false, limit).unwrap()).unwrap()
}

/// Requests that do not touch each other, and what the model has then.
fn round(model: &mut [u8], random: &mut Random) -> (Vec<Ask>, Vec<Vec<u8>>) {
    let (mut asks, mut expected) = (Vec::new(), Vec::new());
    let mut at = 0;
    loop {
        at += random.below(16) as usize * 512;
        let len = if random.below(8) == 0 { 64 << 10 } else { 512 + random.below(16) as usize * 512 };
        if at + len > model.len() {
            return (asks, expected);
        }
        let range = at..at + len;
        let (offset, bytes) = (at as u64, len as u32);
        let mut expect = Vec::new();
        asks.push(match random.below(8) {
            0..3 => {
                expect = model[range].to_vec();
                Ask::Read(offset, bytes)
            }
            3..6 => {
                let data = random.bytes(len);
                model[range].copy_from_slice(&data);
                Ask::Write(offset, data, random.below(4) == 0)
            }
            6 => {
                model[range].fill(0);
                Ask::WriteZeroes(offset, bytes, random.below(2) == 0)
            }
            _ if random.below(2) == 0 => {
                // As the server does it.
                model[range].fill(0xdd);
                Ask::Discard(offset, bytes)
            }
            _ => Ask::Flush,
        });
        expected.push(expect);
        at += len;
    }
}

fn rounds(sim: &Sim<Nbd>, peer: &Peer, model: &mut [u8], random: &mut Random, count: usize) {
    for step in 0..count {
        let (asks, expected) = round(model, random);
        for ((ask, result), expect) in asks.iter().zip(sim.ask(&asks)).zip(expected) {
            // Where connections do not last, the server may have lost what was not flushed.
            let again = peer.seen().connections.load(Ordering::SeqCst) > 1;
            if again && *ask == Ask::Flush && result == Err(Errno::EIO) {
                continue;
            }
            let result = result.unwrap_or_else(|e| panic!("step {step}: {e}"));
            assert!(result == expect, "step {step}: wrong data at {:?}", std::mem::discriminant(ask));
        }
    }
    assert!(peer.data() == model, "what the server has");
}

#[test]
fn like_an_array_in_any_order_and_in_pieces() {
    for (seed, (batch, pieces)) in [(1, false), (16, false), (16, true), (5, true)].into_iter().enumerate() {
        let mut random = Random::new(seed as u64);
        let mut model = random.bytes(256 << 10);
        let script = Script { batch, pieces, ..Script::default() };
        let peer = Peer::start(&format!("array-{seed}"), model.clone(), script);
        let sim = open(&peer, LIMIT);
        rounds(&sim, &peer, &mut model, &mut random, 15);
        assert_eq!(peer.seen().connections.load(Ordering::SeqCst), 1);
    }
}

#[test]
fn connections_that_do_not_last() {
    for seed in 0..4 {
        let mut random = Random::new(100 + seed);
        let mut model = random.bytes(256 << 10);
        // All end somewhere, and there are enough of them.
        let close_at = (0..400).map(|_| Some(20_000 + random.below(200_000))).collect();
        let script = Script { close_at, batch: 8, pieces: seed % 2 == 1, ..Script::default() };
        let peer = Peer::start(&format!("last-{seed}"), model.clone(), script);
        let sim = open(&peer, LIMIT);
        rounds(&sim, &peer, &mut model, &mut random, 15);
        assert!(peer.seen().connections.load(Ordering::SeqCst) > 10);
    }
}

/// What is said before there is an export, in bytes.
const GREETING: u64 = 18 + 4 + 16 + 4 + 4 + (20 + 12) + (20 + 14) + 20;

/// A whole conversation, with one request of each kind.
fn conversation(model: &mut [u8]) -> (Vec<Ask>, Vec<Vec<u8>>) {
    let data: Vec<u8> = (0..512u32).map(|i| (i * 7) as u8).collect();
    let asks = vec![
        Ask::Read(0, 512),
        Ask::Write(512, data.clone(), true),
        Ask::Flush,
        Ask::WriteZeroes(1024, 512, true),
        Ask::Read(1536, 512),
    ];
    let expected = vec![model[0..512].to_vec(), vec![], vec![], vec![], model[1536..2048].to_vec()];
    model[512..1024].copy_from_slice(&data);
    model[1024..1536].fill(0);
    (asks, expected)
}

/// The connections are closed at these bytes; the conversation is a good one nevertheless.
/// Returns how many bytes the last one had, and how many there were. `None`: it was closed
/// before there was an export.
fn closed_at(name: &str, close_at: Vec<Option<u64>>) -> Option<(u64, u64)> {
    let mut model = Random::new(5).bytes(4096);
    let peer = Peer::start(name, model.clone(), Script { close_at, batch: 3, ..Script::default() });
    let sim = Sim::new(Nbd::open(&peer.uri(), false, LIMIT).ok()?).unwrap();
    let (asks, expected) = conversation(&mut model);
    let results: Vec<_> = sim.ask(&asks).into_iter().map(|result| result.unwrap()).collect();
    assert!(results == expected, "{name}: wrong data");
    assert!(peer.data() == model, "{name}: what the server has");
    let seen = peer.seen();
    Some((seen.bytes.load(Ordering::Relaxed), seen.connections.load(Ordering::SeqCst)))
}

#[test]
fn closed_at_each_byte() {
    let (all, connections) = closed_at("sweep", vec![]).unwrap();
    assert_eq!(connections, 1);
    assert!((1300..2500).contains(&all), "{all}");
    thread::scope(|scope| {
        for part in 0..8 {
            scope.spawn(move || {
                for at in (part..all).step_by(8) {
                    let name = format!("sweep-{at}");
                    // The first connection ends there.
                    let seen = closed_at(&name, vec![Some(at)]);
                    assert_eq!(seen.is_none(), at < GREETING, "{at}");
                    assert!(seen.is_none_or(|(_, connections)| connections == 2), "{at}: {seen:?}");
                    // The second one does, in the handshake or later.
                    let (_, connections) = closed_at(&name, vec![Some(GREETING + 700), Some(at)]).unwrap();
                    assert!(connections >= 2, "{at}");
                }
            });
        }
    });
}

/// Something fails that has nothing to do with the server, after any byte: what follows in
/// the stream belongs to nobody, and another connection is needed.
#[test]
fn failures_at_each_byte() {
    let mut data = Random::new(5).bytes(4096);
    // If it is taken for replies nevertheless, these are good ones: the sixth request of the
    // connection is the first one again.
    for tag in [0, 4] {
        let reply = [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0, tag];
        let at = usize::from(tag) / 4 * 1536;
        data[at..at + 512].chunks_mut(16).for_each(|chunk| chunk.copy_from_slice(&reply));
    }
    let peer = Peer::start("failures", data.clone(), Script { batch: 3, ..Script::default() });
    let mut model = data.clone();
    // So many bytes a conversation has without a greeting.
    for (count, at) in (0..5 * (28 + 16) + 3 * 512).step_by(3).enumerate() {
        let (asks, expected) = conversation(&mut model);
        let sim = open(&peer, LIMIT);
        sim.fail_sockets_after(at, Errno::ENOMEM);
        let results: Vec<_> = sim.ask(&asks).into_iter().map(|result| result.unwrap()).collect();
        assert!(results == expected, "{at}: wrong data");
        assert!(peer.data() == model, "{at}: what the server has");
        assert_eq!(peer.seen().connections.load(Ordering::SeqCst), 2 * (count as u64 + 1), "{at}");
    }
}

#[test]
fn replies_that_are_wrong() {
    let evils =
        [Evil::Magic, Evil::Cookie(0), Evil::Cookie(30), Evil::Cookie(63), Evil::Cookie(50), Evil::Twice];
    for (i, evil) in evils.into_iter().enumerate() {
        let mut random = Random::new(i as u64);
        let mut model = random.bytes(64 << 10);
        // For some time.
        let script = Script { evil: Some((3, evil)), ..Script::default() };
        let peer = Peer::start(&format!("evil-{i}"), model.clone(), script);
        let sim = open(&peer, LIMIT);
        rounds(&sim, &peer, &mut model, &mut random, 3);
        assert_eq!(peer.seen().connections.load(Ordering::SeqCst), 4, "{evil:?}");
        if evil == Evil::Twice {
            continue;
        }
        // For ever.
        let script = Script { evil: Some((u64::MAX, evil)), ..Script::default() };
        let peer = Peer::start(&format!("evil-ever-{i}"), vec![7; 8192], script);
        let sim = open(&peer, Duration::from_millis(200));
        assert_eq!(sim.read(0, 512), Err(Errno::EIO), "{evil:?}");
        assert_eq!(sim.write(0, &[1; 512], false), Err(Errno::EIO), "{evil:?}");
    }
}

#[test]
fn errors_are_told() {
    for (number, errno) in [
        (1, Errno::EPERM),
        (5, Errno::EIO),
        (12, Errno::ENOMEM),
        (22, Errno::EINVAL),
        (28, Errno::ENOSPC),
        (95, Errno::EOPNOTSUPP),
        (u32::MAX, Errno::EIO),
    ] {
        let script = Script { evil: Some((u64::MAX, Evil::Error(number))), ..Script::default() };
        let peer = Peer::start(&format!("errors-{number}"), vec![7; 8192], script);
        let sim = open(&peer, LIMIT);
        assert_eq!(sim.read(0, 512), Err(errno));
        assert_eq!(sim.write(0, &[1; 512], false), Err(errno));
        assert_eq!(sim.flush(), Err(errno));
        assert_eq!(sim.discard(0, 512), Err(errno));
        assert_eq!(sim.write_zeroes(0, 512, false), Err(errno));
        assert_eq!(peer.seen().connections.load(Ordering::SeqCst), 1);
    }
    // The next server will do it.
    let script = Script { evil: Some((2, Evil::Error(108))), ..Script::default() };
    let peer = Peer::start("errors-leaving", vec![7; 8192], script);
    let sim = open(&peer, LIMIT);
    assert_eq!(sim.read(0, 512).unwrap(), [7; 512]);
    assert_eq!(peer.seen().connections.load(Ordering::SeqCst), 3);
}

#[test]
fn a_server_that_is_gone() {
    let limit = Duration::from_millis(300);
    let peer = Peer::start("gone", vec![7; 8192], Script::default());
    let sim = open(&peer, limit);
    assert_eq!(sim.read(0, 512).unwrap(), [7; 512]);
    peer.stop();
    let begun = Instant::now();
    let asks = [Ask::Read(0, 512), Ask::Write(512, vec![1; 512], false), Ask::Flush];
    let results = sim.ask(&asks);
    assert!(results.iter().all(|result| *result == Err(Errno::EIO)), "{results:?}");
    assert!(begun.elapsed() >= limit && begun.elapsed() < 20 * limit, "{:?}", begun.elapsed());
    // It is known now.
    let begun = Instant::now();
    assert_eq!(sim.read(0, 512), Err(Errno::EIO));
    assert!(begun.elapsed() < limit, "{:?}", begun.elapsed());
    peer.restart();
    let end = Instant::now() + LIMIT;
    while sim.read(0, 512) == Err(Errno::EIO) {
        assert!(Instant::now() < end, "it is not found again");
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(sim.read(0, 512).unwrap(), [7; 512]);
    // It is restarted in time, under load, and nobody sees it.
    peer.stop();
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(50));
            peer.restart();
        });
        let results = sim.ask(&asks);
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    });
}

#[test]
fn one_that_hangs_is_ended_with_its_server() {
    let peer = Peer::start("hangs", vec![7; 8192], Script::default());
    peer.now(Script { evil: Some((u64::MAX, Evil::Silence)), ..Script::default() });
    // The first connection is one with the new script, too.
    let sim = open(&peer, LIMIT);
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(50));
            peer.now(Script::default());
            peer.stop();
            peer.restart();
        });
        assert_eq!(sim.read(0, 512).unwrap(), [7; 512]);
    });
}

#[test]
fn another_export_is_not_taken_for_it() {
    let peer = Peer::start("other", vec![7; 8192], Script::default());
    let sim = open(&peer, Duration::from_millis(200));
    assert_eq!(sim.read(0, 512).unwrap(), [7; 512]);
    peer.stop();
    peer.resize(4096);
    peer.restart();
    assert_eq!(sim.read(0, 512), Err(Errno::EIO));
}

#[test]
fn on_the_medium() {
    let data = [1; 512];
    // FUA is there; it is a flush; there is neither, and nobody has to ask.
    for (i, (flags, fua, flushes, cached)) in
        [(0x0d, 1, 0, true), (0x05, 0, 1, true), (0x01, 0, 0, false), (0x09, 2, 0, false)]
            .into_iter()
            .enumerate()
    {
        let peer = Peer::start(&format!("medium-{i}"), vec![7; 8192], Script { flags, ..Script::default() });
        let sim = open(&peer, LIMIT);
        assert_eq!(sim.target().geometry().cached, cached, "{flags:x}");
        sim.write(0, &data, true).unwrap();
        sim.write(512, &data, false).unwrap();
        let seen = peer.seen();
        let saw = (seen.fua.load(Ordering::SeqCst), seen.flushes.load(Ordering::SeqCst));
        assert_eq!(saw, (fua, flushes), "{flags:x}");
        // What it can not do is not asked for.
        assert_eq!(sim.discard(0, 512), Err(Errno::EOPNOTSUPP));
        assert_eq!(sim.write_zeroes(0, 512, false), Err(Errno::EOPNOTSUPP));
    }
    // What has no data as well: with a flush, nobody asks for FUA; without, it always is.
    for (i, (flags, fua)) in [(0x6d, 0), (0x69, 2)].into_iter().enumerate() {
        let peer = Peer::start(&format!("ranges-{i}"), vec![7; 8192], Script { flags, ..Script::default() });
        let sim = open(&peer, LIMIT);
        sim.discard(0, 4096).unwrap();
        sim.write_zeroes(4096, 512, true).unwrap();
        assert_eq!(peer.seen().fua.load(Ordering::SeqCst), fua, "{flags:x}");
    }
}

#[test]
fn what_was_not_flushed_before_another_connection() {
    let again = |peer: &Peer| {
        peer.stop();
        peer.restart();
    };
    let lost = Err(Errno::EIO);
    // Alone, and where a flush is about all connections, of which none is left.
    for flags in [0x6d, 0x16d] {
        let name = format!("unflushed-{flags:x}");
        let peer = Peer::start(&name, vec![7; 8192], Script { flags, ..Script::default() });
        let sim = open(&peer, LIMIT);
        sim.write(0, &[1; 512], false).unwrap();
        again(&peer);
        assert_eq!(sim.flush(), lost, "{flags:x}");
        assert_eq!(sim.flush(), Ok(()));
        sim.write_zeroes(512, 512, false).unwrap();
        again(&peer);
        sim.read(0, 512).unwrap();
        assert_eq!(sim.flush(), lost, "{flags:x}");
        // What is on the medium is not lost.
        sim.write(0, &[2; 512], true).unwrap();
        sim.write(0, &[3; 512], false).unwrap();
        sim.flush().unwrap();
        sim.write(512, &[2; 512], true).unwrap();
        again(&peer);
        assert_eq!(sim.flush(), Ok(()));
    }
    // A flush that stands for FUA comes on the next connection.
    for flags in [0x05, 0x105] {
        let close_at = vec![Some(GREETING + 28 + 512 + 16)];
        let script = Script { flags, close_at, ..Script::default() };
        let peer = Peer::start(&format!("unflushed-fua-{flags:x}"), vec![7; 8192], script);
        let sim = open(&peer, LIMIT);
        assert_eq!(sim.write(0, &[1; 512], true), lost, "{flags:x}");
        assert_eq!(peer.seen().connections.load(Ordering::SeqCst), 2);
        assert_eq!(sim.write(0, &[1; 512], true), Ok(()));
        assert_eq!(sim.flush(), Ok(()));
    }
}

#[test]
fn who_goes_away_may_answer_what_it_has() {
    let asks = [Ask::Write(0, vec![1; 512], false), Ask::Read(4096, 512), Ask::Read(6144, 512)];
    for (name, limit, goes) in [("leaves", LIMIT, true), ("leaves-late", Duration::from_millis(300), false)] {
        let peer = Peer::start(name, vec![7; 8192], Script { leaves: true, ..Script::default() });
        let sim = open(&peer, limit);
        let begun = Instant::now();
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(100));
                if goes {
                    peer.let_go();
                }
            });
            let results: Vec<_> = sim.ask(&asks).into_iter().map(Result::unwrap).collect();
            assert_eq!(results[1..], [[7; 512]; 2]);
            // Nothing is sent to another one before it was time.
            let wait = if goes { Duration::from_millis(100) } else { limit };
            assert!(begun.elapsed() >= wait, "{name}");
        });
        // By the first one; or by the second one.
        assert_eq!(peer.seen().writes.load(Ordering::SeqCst), 1, "{name}");
        assert_eq!(peer.data()[..513], [[1; 512].as_slice(), &[7]].concat());
        assert_eq!(peer.seen().connections.load(Ordering::SeqCst), 2, "{name}");
    }
}

/// It may have room for one client only.
#[test]
fn who_goes_away_is_left_before_there_is_another_one() {
    let close_at = [vec![None], vec![Some(0); 1000]].concat();
    let script = Script { leaves: true, close_at, ..Script::default() };
    let peer = Peer::start("left", vec![7; 8192], script);
    let sim = open(&peer, Duration::from_millis(200));
    assert_eq!(sim.read(0, 512), Err(Errno::EIO));
    let end = Instant::now() + Duration::from_secs(5);
    while peer.seen().closed.load(Ordering::SeqCst) == 0 {
        assert!(Instant::now() < end, "it is still open");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_size_that_was_used_has_to_stay() {
    let peer = Peer::start("grown", vec![7; 8192], Script::default());
    let sim = open(&peer, Duration::from_millis(200));
    // The export has grown, and then the device.
    peer.resize(16384);
    assert_eq!(sim.read(8192, 512).unwrap(), [7; 512]);
    peer.stop();
    peer.resize(8192);
    peer.restart();
    assert_eq!(sim.read(0, 512), Err(Errno::EIO));
}

#[test]
fn connections_that_can_not_be_used_are_not_tried_for_ever() {
    let peer = Peer::start("unusable", vec![7; 8192], Script::default());
    let limit = Duration::from_millis(300);
    let sim = open(&peer, limit);
    sim.refuse_socket(true);
    let begun = Instant::now();
    assert_eq!(sim.read(0, 512), Err(Errno::EIO));
    assert!(begun.elapsed() >= limit && begun.elapsed() < 20 * limit, "{:?}", begun.elapsed());
    sim.refuse_socket(false);
    assert_eq!(sim.read(0, 512).unwrap(), [7; 512]);
}

#[test]
fn all_queues_have_connections_before_there_is_a_device() {
    let peer = Peer::start("queues", vec![7; 8192], Script::default());
    let nbd = Nbd::open(&peer.uri(), false, LIMIT).unwrap();
    nbd.prepare(4).unwrap();
    assert_eq!(peer.seen().connections.load(Ordering::SeqCst), 4);
    let script = Script { close_at: vec![None, None, Some(0)], ..Script::default() };
    let peer = Peer::start("queues-few", vec![7; 8192], script);
    let nbd = Nbd::open(&peer.uri(), false, LIMIT).unwrap();
    let said = nbd.prepare(4).unwrap_err().to_string();
    assert!(said.contains("connection 3 of 4") && said.contains("fewer --queues"), "{said}");
}

#[test]
fn what_the_export_is() {
    let geometry = |i: u32, script: Script, read_only| {
        let peer = Peer::start(&format!("is-{i}"), vec![7; 1 << 20], script);
        Nbd::open(&peer.uri(), read_only, LIMIT).map(|nbd| nbd.geometry()).map_err(|e| e.to_string())
    };
    let with = |blocks| Script { blocks, ..Script::default() };
    let all = geometry(0, with([1, 8192, 1 << 25]), false).unwrap();
    assert_eq!((all.size, all.block, all.best, all.max_io), (1 << 20, 512, 8192, 1 << 20));
    assert_eq!((all.read_only, all.cached, all.discard, all.write_zeroes), (false, true, 4096, true));
    assert_eq!(all.queues, 16);
    let small = geometry(1, with([4096, 4096, 65536 + 4096]), false).unwrap();
    assert_eq!((small.block, small.best, small.max_io), (4096, 4096, 65536 + 4096));
    let large = geometry(2, with([512, 1 << 24, 1 << 25]), false).unwrap();
    assert_eq!((large.best, large.max_io), (64 << 10, 1 << 20));
    for script in [with([8192, 8192, 8192]), with([512, 512, 2048])] {
        let said = geometry(3, script, false).unwrap_err();
        assert!(said.contains("not for the kernel"), "{said}");
    }
    let none = geometry(4, Script { flags: 1, ..Script::default() }, false).unwrap();
    assert_eq!((none.cached, none.discard, none.write_zeroes, none.queues), (false, 0, false, 1));
    for (script, read_only) in
        [(Script { flags: 0x16f, ..Script::default() }, false), (Script::default(), true)]
    {
        let kept = geometry(5, script, read_only).unwrap();
        assert_eq!((kept.read_only, kept.cached, kept.discard, kept.write_zeroes), (true, false, 0, false));
    }
    let peer = Peer::start("is-read-only", vec![7; 8192], Script { flags: 0x16f, ..Script::default() });
    let sim = open(&peer, LIMIT);
    assert_eq!(sim.write(0, &[1; 512], false), Err(Errno::EROFS));
    assert_eq!(peer.data(), [7; 8192]);
}

/// It ends with its test, however that ends.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server that is real, and takes two clients: the third one would wait for ever.
#[test]
fn more_queues_than_qemu_takes() {
    let scratch = Scratch::new("nbd-qemu");
    let (image, socket) = (scratch.path("image"), scratch.path("s"));
    std::fs::write(&image, vec![7; 1 << 20]).unwrap();
    let qemu = Command::new("qemu-nbd")
        .args(["-t", "-f", "raw", "-e", "2", "-k"])
        .args([&socket, &image])
        .spawn()
        .expect("make setup installs it");
    let _qemu = Killed(qemu);
    let uri: Uri = format!("nbd+unix:///?socket={}", socket.display()).parse().unwrap();
    let end = Instant::now() + LIMIT;
    // the socket is there before somebody listens
    let nbd = loop {
        match Nbd::open(&uri, false, LIMIT) {
            Ok(nbd) => break nbd,
            Err(e) if Instant::now() > end => panic!("{e}"),
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    };
    nbd.prepare(2).unwrap();
    let said = nbd.prepare(4).unwrap_err().to_string();
    assert!(said.contains("connection 3 of 4") && said.contains("in time"), "{said}");
    let sim = Sim::new(nbd).unwrap();
    sim.write(0, &[1; 4096], true).unwrap();
    sim.flush().unwrap();
    assert_eq!(sim.read(0, 8192).unwrap()[4095..4097], [1, 7]);
}
