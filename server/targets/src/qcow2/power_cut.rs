// SPDX-License-Identifier: GPL-2.0

//! What an image is after the power has failed: all that was written is logged, and the image is
//! made again of what came before the last sync, and of any part of what came after it.

use super::{
    tests::{chain, create, open, qemu_img, run, text},
    *,
};
use crate::model::{Random, Scratch};
use std::{
    collections::HashMap,
    fs,
    sync::{Arc, PoisonError},
};
use ublk_server::sim::Sim;

#[derive(Clone, Debug)]
enum Op {
    Write(u64, Vec<u8>),
    /// The same, but it is on the medium when it is done.
    Through(u64, Vec<u8>),
    Reach(u64),
    Sync,
    /// A request has begun that makes this of the disk.
    Begin(u64, Vec<u8>),
    /// The disk has this there, and that is on the medium.
    Lasts(u64, Vec<u8>),
}

/// What was done to an image's file.
#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<Vec<Op>>>);

impl Log {
    fn push(&self, op: Op) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(op);
    }

    pub(super) fn write(&self, at: u64, data: &[u8]) {
        self.push(Op::Write(at, data.to_vec()));
    }

    pub(super) fn reach(&self, end: u64) {
        self.push(Op::Reach(end));
    }

    pub(super) fn sync(&self) {
        self.push(Op::Sync);
    }

    /// The first thing is a write at this place, and the next one a sync.
    pub(super) fn begins_with_a_synced_write(&self, at: u64) -> bool {
        let ops = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(ops[..], [Op::Write(first, _), Op::Sync, ..] if first == at)
    }
}

/// The data of requests, which are not written by a [`Disk`](disk::Disk), go to the log.
fn log_data(sim: &Sim<Qcow2>, log: &Log, offset: u64, data: &[u8], fua: bool) {
    let mut at = 0;
    let plan = sim.target().chain().plan(offset, data.len() as u32).unwrap();
    for piece in plan.pieces {
        let part = data[at..at + piece.len as usize].to_vec();
        at += part.len();
        if piece.file == sim.target().file {
            log.push(if fua { Op::Through(piece.offset, part) } else { Op::Write(piece.offset, part) });
        }
    }
}

/// Do random things with an image, and log them.
fn work(path: &Path, model: &mut [u8], random: &mut Random, steps: usize) -> Vec<Op> {
    let sim = open(path);
    let log = sim.target().chain().top().disk.log.clone();
    let sectors = model.len() as u64 / 512;
    for _ in 0..steps {
        let most: u64 = if random.below(4) == 0 { 400 } else { 16 };
        let count = 1 + random.below(most.min(sectors));
        let first = random.below(sectors - count + 1);
        let (offset, len) = (first * 512, (count * 512) as usize);
        let range = offset as usize..offset as usize + len;
        match random.below(10) {
            0..6 => {
                let (data, fua) = (random.bytes(len), random.below(6) == 0);
                log.push(Op::Begin(offset, data.clone()));
                sim.write(offset, &data, fua).unwrap();
                log_data(&sim, &log, offset, &data, fua);
                if fua {
                    log.push(Op::Lasts(offset, data.clone()));
                }
                model[range].copy_from_slice(&data);
            }
            6 | 7 => {
                log.push(Op::Begin(offset, vec![0; len]));
                if random.below(3) == 0 {
                    sim.discard(offset, len as u32).unwrap();
                } else {
                    sim.write_zeroes(offset, len as u32, false).unwrap();
                }
                let now = sim.read(offset, len as u32).unwrap();
                // It was punched where there are zeroes now.
                log_data(&sim, &log, offset, &now, false);
                model[range].copy_from_slice(&now);
            }
            _ => {
                sim.flush().unwrap();
                log.push(Op::Lasts(0, model.to_vec()));
            }
        }
    }
    drop(sim);
    log.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// The image's file.
#[derive(Clone)]
struct Medium(Vec<u8>);

impl Medium {
    fn write(&mut self, at: u64, data: &[u8]) {
        let at = at as usize;
        if self.0.len() < at + data.len() {
            self.0.resize(at + data.len(), 0);
        }
        self.0[at..at + data.len()].copy_from_slice(data);
    }

    /// `part`: a sector is written or not.
    fn apply(&mut self, op: &Op, mut part: impl FnMut() -> bool) {
        match op {
            Op::Write(at, data) | Op::Through(at, data) => {
                // Sectors are those of the file.
                let mut from = 0;
                while from < data.len() {
                    let to = data.len().min(from + 512 - (*at as usize + from) % 512);
                    if part() {
                        self.write(at + from as u64, &data[from..to]);
                    }
                    from = to;
                }
            }
            Op::Reach(end) if part() => self.0.resize(self.0.len().max(*end as usize), 0),
            _ => {}
        }
    }
}

/// Cut the power at `cuts` places. `before`: what the disk has at first.
fn cut(
    scratch: &Scratch,
    path: &Path,
    first: Vec<u8>,
    before: &[u8],
    ops: &[Op],
    random: &mut Random,
    cuts: u64,
) {
    let mut medium = Medium(first);
    let mut loose: Vec<&Op> = Vec::new();
    let mut lasts = before.to_vec();
    // What else a sector may have.
    let mut maybe: HashMap<usize, Vec<&[u8]>> = HashMap::new();
    let every = (ops.len() as u64 / cuts).max(1);
    for (i, op) in ops.iter().enumerate() {
        match op {
            Op::Sync => {
                loose.drain(..).for_each(|op| medium.apply(op, || true));
            }
            Op::Begin(offset, data) => {
                for (n, sector) in data.chunks(512).enumerate() {
                    maybe.entry(*offset as usize / 512 + n).or_default().push(sector);
                }
            }
            Op::Lasts(offset, data) => {
                let from = *offset as usize;
                lasts[from..from + data.len()].copy_from_slice(data);
                (from / 512..(from + data.len()) / 512).for_each(|n| drop(maybe.remove(&n)));
            }
            Op::Through(..) => {
                // What it is written over in part comes first.
                medium.apply(op, || true);
                loose.push(op);
            }
            op => loose.push(op),
        }
        // Before a sync, most is loose; and a table may just have begun to name something.
        let syncs = matches!(ops.get(i + 1), Some(Op::Sync));
        let names = matches!(op, Op::Write(_, data) if data.len() <= 12);
        // Rare: the header names another refcount table, and the old one becomes free.
        let header = |op: Option<&Op>| matches!(op, Some(Op::Write(_, data)) if data.len() == 12);
        let rare = header(Some(op)) || i > 0 && header(ops.get(i - 1));
        if !rare && random.below(if syncs || names { every.div_ceil(8) } else { every }) != 0 {
            continue;
        }
        let mut after = medium.clone();
        // The last one alone is the worst, if it needs what is before it.
        let (most, alone) = (random.below(5), names && random.below(2) == 0);
        for (n, op) in loose.iter().enumerate() {
            let through = matches!(op, Op::Through(..));
            let last = n + 1 == loose.len();
            after.apply(op, || through || if alone { last } else { random.below(4) < most });
        }
        fs::write(path, &after.0).unwrap();
        let what = |why: &str| format!("{why} after {i} of {} operations: {:?}", ops.len(), loose.last());
        let check = run("qemu-img", &["check", "-f", "qcow2", text(path)]);
        // Lost clusters are allowed.
        let said = String::from_utf8_lossy(&check.stdout).into_owned();
        assert!(matches!(check.status.code(), Some(0 | 3)), "{}: {said}", what("corrupt"));
        let raw = scratch.path("raw");
        qemu_img(&["convert", "-f", "qcow2", "-O", "raw", text(path), text(&raw)]);
        let data = fs::read(&raw).unwrap();
        assert_eq!(data.len(), lasts.len());
        for (n, (got, last)) in data.chunks(512).zip(lasts.chunks(512)).enumerate() {
            let other = || maybe.get(&n).is_some_and(|all| all.contains(&got));
            assert!(got == last || other(), "{}: sector {n} is wrong", what("lost"));
        }
    }
}

#[test]
fn any_moment() {
    let scratch = Scratch::in_memory("qcow2-power");
    for (seed, options) in [
        (1, "cluster_size=64k"),
        (2, "cluster_size=512,refcount_bits=64"),
        (3, "cluster_size=4k,compat=0.10"),
        (4, "cluster_size=2M"),
    ] {
        let mut random = Random::new(seed);
        let path = scratch.path("image");
        create(&path, options, 2 << 20);
        let mut model = vec![0; 2 << 20];
        for _ in 0..2 {
            let (first, before) = (fs::read(&path).unwrap(), model.clone());
            let ops = work(&path, &mut model, &mut random, 60);
            let last = fs::read(&path).unwrap();
            cut(&scratch, &path, first, &before, &ops, &mut random, 16);
            fs::write(&path, last).unwrap();
        }
    }
}

/// The refcount table becomes too small, and another one takes its place.
#[test]
fn any_moment_of_a_new_table() {
    let scratch = Scratch::in_memory("qcow2-power-table");
    let path = scratch.path("image");
    for seed in 21..25 {
        let mut random = Random::new(seed);
        let _ = fs::remove_file(&path);
        create(&path, "cluster_size=512,refcount_bits=64", 4 << 20);
        let mut model = vec![0; 4 << 20];
        // 64 blocks, of 64 clusters each, are 2 MiB. The tables need some of it.
        let filled = 2_000_000 / 512 * 512;
        model[..filled].copy_from_slice(&random.bytes(filled));
        open(&path).write(0, &model[..filled], true).unwrap();
        let table = |path: &Path| fs::read(path).unwrap()[48..56].to_vec();
        let (first, before) = (fs::read(&path).unwrap(), model.clone());
        let old = table(&path);
        let ops = work(&path, &mut model, &mut random, 30);
        assert_ne!(table(&path), old, "it was large enough");
        cut(&scratch, &path, first, &before, &ops, &mut random, 16);
    }
}

#[test]
fn any_moment_of_a_chain() {
    let scratch = Scratch::in_memory("qcow2-power-chain");
    for (seed, options) in
        [(11, "cluster_size=4k"), (12, "cluster_size=64k,compat=0.10"), (13, "cluster_size=512")]
    {
        let mut random = Random::new(seed);
        let (top, model) = chain(&scratch, &mut random, options, 1 << 20);
        qemu_img(&["snapshot", "-c", "one", text(&top)]);
        // The image, and the one with compressed clusters that it builds upon.
        for path in [top, scratch.path("middle")] {
            let first = fs::read(&path).unwrap();
            let mut model =
                if path.ends_with("top") { model.clone() } else { open(&path).read(0, 1 << 20).unwrap() };
            let before = model.clone();
            let ops = work(&path, &mut model, &mut random, 50);
            cut(&scratch, &path, first, &before, &ops, &mut random, 16);
        }
    }
}
