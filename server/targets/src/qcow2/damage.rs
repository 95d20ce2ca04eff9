// SPDX-License-Identifier: GPL-2.0

//! Damaged images: each field of the header and each entry of the tables is something else. What
//! is served then is not known, but there is no panic, no endless loop, and no memory without end.

use super::{
    tests::{attempt, chain, create, open, qemu_img, text},
    *,
};
use crate::model::{Random, Scratch};
use std::fs;
use ublk_server::sim::Sim;

const SIZE: usize = 1 << 20;

/// Use whatever it is. Returns whether it could be opened.
fn use_it(path: &Path, random: &mut Random) -> bool {
    let Ok(target) = attempt(path, Access::default()) else { return false };
    let size = target.geometry().size;
    let sim = Sim::new(target).unwrap();
    // Clusters may be said to be where there is no file system for so much: the file gets larger.
    let mut offsets = vec![0, size - 512];
    offsets.extend((0..12).map(|_| random.below(size / 512) * 512));
    for offset in offsets {
        let len = (size - offset).min(65536) as u32;
        let _ = sim.read(offset, len);
        let _ = sim.write(offset, &vec![7; len.min(4096) as usize], random.below(8) == 0);
        let _ = sim.write_zeroes(offset, len, false);
        let _ = sim.discard(offset, len);
    }
    let _ = sim.flush();
    true
}

fn be64(bytes: &[u8], at: u64) -> u64 {
    u64::from_be_bytes(bytes[at as usize..at as usize + 8].try_into().unwrap())
}

const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// What an entry or a field may have instead.
fn other(random: &mut Random, was: u64, len: u64) -> u64 {
    let any = random.below(1 << 40) << 24 | random.below(1 << 24);
    match random.below(12) {
        0 => 0,
        1 => u64::MAX,
        2 => was ^ 1 << random.below(64),
        3 => 1 << 63 | OFFSET,
        4 => 1 << 63 | len & OFFSET,
        5 => 1 << 63 | random.below(len) & !511,
        6 => random.below(len) & !0xffff,
        7 => 1 << 62 | any >> 2,
        8 => 1 << 62 | random.below(len),
        9 => was | 1 << 62,
        10 => was.wrapping_add(512),
        _ => any,
    }
}

/// Where the tables of an image have entries: the L1 table, L2 tables, those of refcounts.
fn entries(bytes: &[u8]) -> Vec<u64> {
    let cluster = 1 << bytes[23];
    let (l1, count) = (be64(bytes, 40), be64(bytes, 32) as u32);
    let mut all = Vec::new();
    let mut table = |at: u64, len: u64| {
        let end = (at + len).min(bytes.len() as u64 / 8 * 8);
        all.extend((at..end).step_by(8));
    };
    table(l1, u64::from(count) * 8);
    let refcounts = be64(bytes, 48);
    table(refcounts, cluster);
    for i in 0..u64::from(count) {
        match be64(bytes, l1 + i * 8) & OFFSET {
            0 => {}
            l2 => table(l2, cluster),
        }
    }
    match be64(bytes, refcounts) & OFFSET {
        0 => {}
        block => table(block, cluster),
    }
    all
}

#[test]
fn each_byte_of_the_header() {
    let scratch = Scratch::in_memory("qcow2-header");
    let mut random = Random::new(5);
    let (path, _) = chain(&scratch, &mut random, "cluster_size=4k", SIZE);
    let good = fs::read(&path).unwrap();
    let (mut opened, mut refused) = (0, 0);
    for at in 0..240 {
        for value in [0, 0xff, good[at] ^ 1 << random.below(8)] {
            let mut bytes = good.clone();
            bytes[at] = value;
            fs::write(&path, &bytes).unwrap();
            *if use_it(&path, &mut random) { &mut opened } else { &mut refused } += 1;
        }
    }
    assert!(opened > 100 && refused > 100, "{opened} opened, {refused} refused");
}

#[test]
fn each_kind_of_entry() {
    let scratch = Scratch::in_memory("qcow2-entries");
    let mut random = Random::new(6);
    for options in [
        "cluster_size=512",
        "cluster_size=4k,compat=0.10",
        "cluster_size=64k,compression_type=zstd",
        "cluster_size=2M",
    ] {
        let (top, _) = chain(&scratch, &mut random, options, SIZE);
        qemu_img(&["snapshot", "-c", "one", text(&top)]);
        for path in [top, scratch.path("middle")] {
            let good = fs::read(&path).unwrap();
            let places = entries(&good);
            for _ in 0..30 {
                let mut bytes = good.clone();
                for _ in 0..1 + random.below(3) {
                    // The first ones of a table are used most.
                    let all = places.len() as u64;
                    let most = if random.below(2) == 0 { all } else { all.min(16) };
                    let at = places[random.below(most) as usize];
                    let new = other(&mut random, be64(&bytes, at), good.len() as u64);
                    bytes[at as usize..at as usize + 8].copy_from_slice(&new.to_be_bytes());
                }
                fs::write(&path, &bytes).unwrap();
                use_it(&path, &mut random);
            }
            // Data as well, those of compressed clusters among them.
            for _ in 0..10 {
                let mut bytes = good.clone();
                for _ in 0..200 {
                    let at = random.below(bytes.len() as u64) as usize;
                    bytes[at] = random.below(256) as u8;
                }
                bytes[..512].copy_from_slice(&good[..512]);
                fs::write(&path, &bytes).unwrap();
                use_it(&path, &mut random);
            }
        }
    }
}

#[test]
fn a_table_without_refcount_is_not_overwritten() {
    let scratch = Scratch::in_memory("qcow2-overlap");
    let path = scratch.path("image");
    create(&path, "cluster_size=4k", SIZE);
    let mut bytes = fs::read(&path).unwrap();
    let table = be64(&bytes, 48);
    let block = be64(&bytes, table) as usize;
    // All is free, it says.
    bytes[block..block + 4096].fill(0);
    fs::write(&path, &bytes).unwrap();
    let sim = open(&path);
    assert_eq!(sim.write(0, &[1; 4096], false), Err(Errno::EIO));
    drop(sim);
    assert!(fs::read(&path).unwrap() == bytes);
}

fn set64(bytes: &mut [u8], at: u64, value: u64) {
    bytes[at as usize..at as usize + 8].copy_from_slice(&value.to_be_bytes());
}

const COPIED: u64 = 1 << 63;

/// An image with something at its beginning: its bytes, and where the first L2 table is, and the
/// first block of refcounts.
fn with_data(path: &Path, options: &str) -> (Vec<u8>, u64, u64) {
    create(path, options, SIZE);
    open(path).write(0, &[1; 512], false).unwrap();
    let bytes = fs::read(path).unwrap();
    let (l2, block) = (be64(&bytes, be64(&bytes, 40)) & OFFSET, be64(&bytes, be64(&bytes, 48)));
    (bytes, l2, block)
}

/// How many clusters are used, as the first block of refcounts says.
fn used(path: &Path, block: u64) -> usize {
    let bytes = fs::read(path).unwrap();
    let cluster = 1 << bytes[23];
    let (counts, _) = bytes[block as usize..block as usize + cluster].as_chunks::<2>();
    counts.iter().filter(|count| **count != [0; 2]).count()
}

#[test]
fn requests_do_not_write_tables() {
    let scratch = Scratch::in_memory("qcow2-tables");
    let path = scratch.path("image");
    let (good, l2, block) = with_data(&path, "cluster_size=4k");
    for table in [l2, block] {
        let mut bytes = good.clone();
        set64(&mut bytes, l2 + 8, COPIED | table);
        fs::write(&path, &bytes).unwrap();
        let sim = open(&path);
        assert_eq!(sim.write(4096, &[0; 4096], false), Err(Errno::EIO));
        assert_eq!(sim.write_zeroes(4096, 4096, false), Err(Errno::EIO));
        drop(sim);
        assert!(fs::read(&path).unwrap() == bytes);
    }
}

#[test]
fn a_block_of_refcounts_is_not_put_over_a_table() {
    let scratch = Scratch::in_memory("qcow2-block");
    let path = scratch.path("image");
    let (mut bytes, l2, _) = with_data(&path, "cluster_size=512,refcount_bits=64");
    // A block is for 64 clusters, and the second one is not there.
    let moved = 64 * 512;
    let table = bytes[l2 as usize..l2 as usize + 512].to_vec();
    bytes.resize(moved, 0);
    bytes.extend(&table);
    let l1 = be64(&bytes, 40);
    set64(&mut bytes, l1, COPIED | moved as u64);
    fs::write(&path, &bytes).unwrap();
    let sim = open(&path);
    let results: Vec<_> = (0..64).map(|n| sim.write(n * 512, &[2; 512], false)).collect();
    assert_eq!((results[1], results[63]), (Ok(()), Err(Errno::EIO)));
    drop(sim);
    assert_eq!(fs::read(&path).unwrap()[moved..moved + 8], table[..8]);
}

#[test]
fn one_block_for_all() {
    let scratch = Scratch::in_memory("qcow2-twice");
    let path = scratch.path("image");
    let (mut bytes, _, block) = with_data(&path, "cluster_size=512");
    let table = be64(&bytes, 48);
    set64(&mut bytes, table + 8, block);
    fs::write(&path, &bytes).unwrap();
    let why = attempt(&path, Access::default()).unwrap_err().to_string();
    assert!(why.contains("refcount table"), "{why}");
    assert!(attempt(&path, Access { read_only: true, ..Access::default() }).is_ok());
}

#[test]
fn data_that_seemed_to_be_shared_stay() {
    let scratch = Scratch::in_memory("qcow2-alone");
    let path = scratch.path("image");
    let (mut bytes, l2, block) = with_data(&path, "cluster_size=4k");
    let data = be64(&bytes, l2) & OFFSET;
    set64(&mut bytes, l2, data);
    fs::write(&path, &bytes).unwrap();
    let sim = open(&path);
    sim.write(0, &[2; 512], false).unwrap();
    sim.flush().unwrap();
    drop(sim);
    let bytes = fs::read(&path).unwrap();
    assert_ne!(be64(&bytes, l2) & OFFSET, data);
    let at = (block + data / 4096 * 2) as usize;
    assert_eq!(bytes[at..at + 2], [0, 1], "a request may still read it");
}

#[test]
fn retries_lose_nothing() {
    let scratch = Scratch::in_memory("qcow2-retry");
    let path = scratch.path("image");
    scratch.file("base", &[1; SIZE]);
    for options in ["cluster_size=4k", "cluster_size=4k,backing_file=base,backing_fmt=raw"] {
        let _ = fs::remove_file(&path);
        let (mut bytes, l2, block) = with_data(&path, options);
        set64(&mut bytes, l2 + 4 * 8, 1 << 60);
        fs::write(&path, &bytes).unwrap();
        let before = used(&path, block);
        let sim = open(&path);
        let end = |sim: &Sim<Qcow2>| sim.target().chain().top().disk.end();
        let mut ends = Vec::new();
        for _ in 0..20 {
            assert_eq!(sim.write(512, &[2; 20000], false), Err(Errno::EIO));
            ends.push(end(&sim));
        }
        if !options.contains("base") {
            assert_eq!(ends[0], ends[19], "the same clusters again and again");
        }
        drop(sim);
        assert_eq!(used(&path, block), before, "{options}");
    }
    // A table can not be written, and may name what it was to name.
    let _ = fs::remove_file(&path);
    let (_, _, block) = with_data(&path, "cluster_size=4k");
    let before = used(&path, block);
    let sim = open(&path);
    sim.write(4096, &[1; 512], false).unwrap();
    sim.target().chain().top().disk.fail_after = Some(0);
    assert_eq!(sim.write(8192, &[1; 512], false), Err(Errno::EIO));
    drop(sim);
    assert_eq!(used(&path, block), before + 2);
}

#[test]
fn what_waits_to_be_free_is_bounded() {
    let scratch = Scratch::in_memory("qcow2-waits");
    let path = scratch.path("image");
    let mut model = Random::new(1).bytes(SIZE);
    model.iter_mut().for_each(|byte| *byte &= 15);
    let raw = scratch.file("raw", &model);
    let args = ["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=4k"];
    qemu_img(&[&args[..], &[text(&raw), text(&path)]].concat());
    let sim = open(&path);
    let mut most = 0;
    for n in (0..SIZE as u64 / 4096).rev() {
        sim.write(n * 4096, &[3; 4096], false).unwrap();
        most = most.max(sim.target().chain().top().waiting());
    }
    assert!((32..=64).contains(&most), "{most}");
    drop(sim);
    super::tests::check(&path);
}
