// SPDX-License-Identifier: GPL-2.0

//! Images of qemu-img, written here, and checked by it.

use super::*;
use crate::model::{Random, Scratch, compare};
use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
    time::{Duration, Instant},
};
use ublk_server::sim::Sim;

pub(super) fn run(program: &str, args: &[&str]) -> Output {
    // Its files may still be those of a child of another test as well, see attempt().
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let output = Command::new(program).args(args).output();
        let output = output.unwrap_or_else(|e| panic!("{program} (qemu-utils): {e}"));
        let locked = String::from_utf8_lossy(&output.stderr).contains("Failed to get");
        if !locked || Instant::now() > end {
            return output;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub(super) fn qemu_img(args: &[&str]) {
    let output = run("qemu-img", args);
    assert!(output.status.success(), "qemu-img {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

pub(super) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// qemu-img finds nothing wrong, nor lost.
pub(super) fn check(path: &Path) {
    qemu_img(&["check", "-q", "-f", "qcow2", text(path)]);
}

/// What the image has, as qemu reads it, is this.
pub(super) fn same(scratch: &Scratch, path: &Path, model: &[u8]) {
    let raw = scratch.file("model", model);
    qemu_img(&["compare", "-q", "-f", "qcow2", "-F", "raw", text(path), text(&raw)]);
}

/// Open an image, or say why not.
pub(super) fn attempt(path: &Path, access: Access) -> io::Result<Qcow2> {
    // A child that another test has just started has all files, until it executes its program.
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match Qcow2::open(path, access) {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(1));
            }
            result => return result,
        }
    }
}

pub(super) fn open(path: &Path) -> Sim<Qcow2> {
    Sim::new(attempt(path, Access::default()).unwrap()).unwrap()
}

/// A new image with these options.
pub(super) fn create(path: &Path, options: &str, size: usize) {
    let options = if options.is_empty() { "compat=1.1" } else { options };
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", options, text(path), &size.to_string()]);
}

/// Data with runs of zeroes, and such that can be compressed.
fn data(random: &mut Random, size: usize) -> Vec<u8> {
    let mut data = Vec::with_capacity(size);
    while data.len() < size {
        let len = 512 * (1 + random.below(64)) as usize;
        match random.below(3) {
            0 => data.resize(data.len() + len, 0),
            1 => data.extend(random.bytes(len)),
            _ => data.extend((0..len).map(|i| (i / 97) as u8)),
        }
    }
    data.truncate(size);
    data
}

#[test]
fn like_an_array() {
    let scratch = Scratch::in_memory("qcow2");
    for (i, (options, size)) in [
        ("cluster_size=64k", 4 << 20),
        ("cluster_size=64k,compat=0.10", 4 << 20),
        ("cluster_size=512", 3 << 20),
        ("cluster_size=512,refcount_bits=64", 3 << 20),
        ("cluster_size=512,refcount_bits=1", 1 << 20),
        ("cluster_size=4k,refcount_bits=8", (3 << 20) + 512),
        ("cluster_size=2M", 4 << 20),
        ("cluster_size=4k,preallocation=metadata", 2 << 20),
        ("cluster_size=64k,preallocation=metadata,lazy_refcounts=on", (1 << 20) + 1536),
    ]
    .into_iter()
    .enumerate()
    {
        let path = scratch.path(&format!("{i}.qcow2"));
        create(&path, options, size);
        let mut random = Random::new(i as u64);
        let mut model = vec![0; size];
        // The image is opened again and again.
        for _ in 0..2 {
            compare(&open(&path), &mut model, &mut random, 60);
            check(&path);
            same(&scratch, &path, &model);
        }
    }
}

/// An image whose clusters are of all kinds: its own, compressed, zero, and those of what it
/// builds upon, which is smaller. Returns it, and what is in it.
pub(super) fn chain(
    scratch: &Scratch,
    random: &mut Random,
    options: &str,
    size: usize,
) -> (PathBuf, Vec<u8>) {
    let (base, middle, top) = (scratch.path("base"), scratch.path("middle"), scratch.path("top"));
    for path in [&middle, &top] {
        let _ = fs::remove_file(path);
    }
    // It ends in the middle of a sector.
    let mut model = data(random, size * 3 / 4 + 100);
    fs::write(&base, &model).unwrap();
    model.resize(size, 0);
    // Compressed clusters, then another file instead of what they were made of.
    fs::write(scratch.path("all"), &model).unwrap();
    let all = scratch.path("all");
    qemu_img(&["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, text(&all), text(&middle)]);
    let io = |path: &Path, commands: &[String]| {
        let mut args = vec!["-f", "qcow2"];
        for command in commands {
            args.extend(["-c", command]);
        }
        args.push(text(path));
        let output = run("qemu-io", &args);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && !said.contains("failed"), "{commands:?}: {said}");
    };
    let backing = format!("{options},backing_file=middle,backing_fmt=qcow2");
    create(&top, &backing, size);
    let mut commands = Vec::new();
    for n in 0..24 {
        let (offset, len) = (512 * random.below(size as u64 / 512), 512 * (1 + random.below(200)) as usize);
        let range = offset as usize..(offset as usize + len).min(size);
        let len = range.len();
        match random.below(3) {
            0 => {
                commands.push(format!("write -q -P {n} {offset} {len}"));
                model[range].fill(n);
            }
            1 => {
                commands.push(format!("write -q -z {offset} {len}"));
                model[range].fill(0);
            }
            _ => {
                commands.push(format!("write -q -z -u {offset} {len}"));
                model[range].fill(0);
            }
        }
    }
    io(&top, &commands);
    (top, model)
}

#[test]
fn chains() {
    let scratch = Scratch::in_memory("qcow2-chain");
    for (seed, options) in (100..).zip([
        "cluster_size=512",
        "cluster_size=4k",
        "cluster_size=64k",
        "cluster_size=64k,compat=0.10",
        "cluster_size=64k,compression_type=zstd",
        "cluster_size=2M",
    ]) {
        let mut random = Random::new(seed);
        let (top, mut model) = chain(&scratch, &mut random, options, 3 << 20);
        let read = open(&top).read(0, 3 << 20).unwrap();
        assert!(read == model, "{options}: as qemu-img has made it");
        compare(&open(&top), &mut model, &mut random, 60);
        check(&top);
        same(&scratch, &top, &model);
        // The same for an image with compressed clusters of its own.
        let middle = scratch.path("middle");
        let mut model = open(&middle).read(0, 3 << 20).unwrap();
        compare(&open(&middle), &mut model, &mut random, 40);
        check(&middle);
        same(&scratch, &middle, &model);
    }
}

#[test]
fn a_raw_base_that_ends_in_a_sector() {
    let scratch = Scratch::in_memory("qcow2-raw");
    let mut random = Random::new(3);
    let mut model = random.bytes(100_100);
    scratch.file("base", &model);
    let top = scratch.path("top");
    create(&top, "cluster_size=4k,backing_file=base,backing_fmt=raw", 1 << 20);
    model.resize(1 << 20, 0);
    assert!(open(&top).read(0, 1 << 20).unwrap() == model);
    compare(&open(&top), &mut model, &mut random, 100);
    check(&top);
    same(&scratch, &top, &model);
    assert_eq!(fs::read(scratch.path("base")).unwrap().len(), 100_100, "nobody writes to it");
}

#[test]
fn what_it_builds_upon_is_known() {
    let scratch = Scratch::in_memory("qcow2-paths");
    let [raw, middle, top] = ["raw", "middle", "top"].map(|name| scratch.path(name));
    scratch.file("raw", &[1; 700]);
    create(&middle, "backing_file=raw,backing_fmt=raw", 1 << 20);
    create(&top, "backing_file=middle,backing_fmt=qcow2", 1 << 20);
    // Whoever has it.
    let sim = open(&top);
    assert_eq!(Qcow2::paths(&top).unwrap(), [top.clone(), middle.clone(), raw.clone()]);
    assert_eq!(Qcow2::paths(&middle).unwrap(), [middle.clone(), raw.clone()]);
    assert!(Qcow2::paths(&raw).unwrap_err().to_string().contains("no qcow2"));
    drop(sim);
    // The last one has no header to look at.
    fs::remove_file(&raw).unwrap();
    assert_eq!(Qcow2::paths(&top).unwrap().len(), 3);
    fs::remove_file(&middle).unwrap();
    assert!(Qcow2::paths(&top).is_err());
    create(&middle, "", 1 << 20);
    qemu_img(&["rebase", "-u", "-F", "qcow2", "-b", "top", "-f", "qcow2", text(&middle)]);
    assert!(Qcow2::paths(&top).unwrap_err().to_string().contains("more than 32"));
}

#[test]
fn snapshots_stay() {
    let scratch = Scratch::in_memory("qcow2-snapshot");
    for options in ["cluster_size=512", "cluster_size=64k", "cluster_size=64k,compat=0.10"] {
        let path = scratch.path("image");
        let _ = fs::remove_file(&path);
        create(&path, options, 2 << 20);
        let mut random = Random::new(7);
        let mut model = vec![0; 2 << 20];
        compare(&open(&path), &mut model, &mut random, 50);
        let before = model.clone();
        qemu_img(&["snapshot", "-c", "one", text(&path)]);
        compare(&open(&path), &mut model, &mut random, 50);
        check(&path);
        same(&scratch, &path, &model);
        qemu_img(&["snapshot", "-a", "one", text(&path)]);
        check(&path);
        same(&scratch, &path, &before);
    }
}

#[test]
fn what_was_free_is_zero() {
    let scratch = Scratch::in_memory("qcow2-free");
    let path = scratch.path("image");
    for options in ["cluster_size=4k", "cluster_size=64k,compat=0.10"] {
        let mut model = vec![0; 4 << 20];
        // To be compressed to half of it.
        model[..1 << 20].copy_from_slice(&Random::new(1).bytes(1 << 20));
        model[..1 << 20].iter_mut().for_each(|byte| *byte &= 15);
        let raw = scratch.file("raw", &model);
        qemu_img(&["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, text(&raw), text(&path)]);
        model[..1 << 20].fill(2);
        // Their clusters are free then, and still have what was in them.
        open(&path).write(0, &model[..1 << 20], false).unwrap();
        let sim = open(&path);
        let before = sim.target().chain().top().disk.end();
        for at in (1 << 20..2 << 20).step_by(256 << 10) {
            sim.write(at as u64 + 512, &[3; 512], false).unwrap();
            model[at + 512..at + 1024].fill(3);
        }
        assert_eq!(sim.target().chain().top().disk.end(), before, "they are used again");
        drop(sim);
        check(&path);
        same(&scratch, &path, &model);
    }
}

#[test]
fn freed_when_nobody_names_it() {
    let scratch = Scratch::in_memory("qcow2-named");
    let (raw, path) = (scratch.file("raw", &[1; 1 << 20]), scratch.path("image"));
    qemu_img(&["convert", "-c", "-f", "raw", "-O", "qcow2", text(&raw), text(&path)]);
    let sim = open(&path);
    sim.write(0, &[2; 512], false).unwrap();
    let first = sim.target().chain().top().begin_sync().unwrap();
    sim.write(65536, &[2; 512], false).unwrap();
    assert_eq!(sim.target().chain().top().waiting(), 2);
    // A sync that had begun before the second one.
    sim.target().chain().top().end_sync(first, Ok(())).unwrap();
    assert_eq!(sim.target().chain().top().waiting(), 1);
    assert!(sim.target().chain().top().pending());
    sim.flush().unwrap();
    assert_eq!(sim.target().chain().top().waiting(), 0);
    assert!(!sim.target().chain().top().pending());
    drop(sim);
    // One that hears of nothing does not count if another one has, whoever is back first.
    for good_first in [true, false] {
        let sim = open(&path);
        sim.write(131_072 + 65536 * u64::from(good_first), &[2; 512], false).unwrap();
        let (a, b) = {
            let mut chain = sim.target().chain();
            (chain.top().begin_sync().unwrap(), chain.top().begin_sync().unwrap())
        };
        for good in [good_first, !good_first] {
            let (which, result) = if good { (a, Ok(())) } else { (b, Err(Errno::EIO)) };
            let _ = sim.target().chain().top().end_sync(which, result);
        }
        assert_eq!(sim.target().chain().top().waiting(), 1, "{good_first}");
        assert_eq!(sim.flush(), Err(Errno::EIO));
    }
}

#[test]
fn what_fua_hears_is_lost_for_all() {
    let scratch = Scratch::in_memory("qcow2-fua");
    let path = scratch.path("image");
    create(&path, "cluster_size=64k", 1 << 20);
    let sim = open(&path);
    sim.write(0, &[1; 65536], true).unwrap();
    let before = sim.syncs();
    sim.write(0, &[2; 512], true).unwrap();
    assert_eq!(sim.syncs(), before + 1);
    // The data are written, and the sync fails.
    sim.fail_sync(Errno::EIO);
    assert_eq!(sim.write(0, &[3; 512], true), Err(Errno::EIO));
    assert_eq!(sim.target().chain().top().disk.check(), Err(Errno::EIO));
    assert_eq!(sim.flush(), Err(Errno::EIO));
}

#[test]
fn a_sync_for_which_memory_is_short_is_tried_again() {
    let scratch = Scratch::in_memory("qcow2-again");
    let (raw, path) = (scratch.file("raw", &[1; 1 << 20]), scratch.path("image"));
    qemu_img(&["convert", "-c", "-f", "raw", "-O", "qcow2", text(&raw), text(&path)]);
    let sim = open(&path);
    sim.write(0, &[2; 512], false).unwrap();
    let freed = || {
        let mut chain = sim.target().chain();
        (chain.top().waiting(), chain.top().pending())
    };
    for fua in [false, true] {
        sim.fail_sync(Errno::ENOMEM);
        let result = if fua { sim.write(0, &[3; 512], true) } else { sim.flush() };
        assert_eq!(result, Err(Errno::ENOMEM));
        // Nothing is taken for done.
        assert_eq!(freed(), (1, true));
    }
    sim.flush().unwrap();
    assert_eq!(freed(), (0, false));
}

#[test]
fn bitmaps_stay_until_something_is_written() {
    let scratch = Scratch::in_memory("qcow2-bitmap");
    let path = scratch.path("image");
    let autoclear = |path: &Path| fs::read(path).unwrap()[88..96].to_vec();
    for zeroes in [false, true] {
        let _ = fs::remove_file(&path);
        create(&path, "cluster_size=64k", 1 << 20);
        qemu_img(&["bitmap", "--add", text(&path), "one"]);
        let before = fs::read(&path).unwrap();
        assert_ne!(autoclear(&path), [0; 8]);
        let sim = open(&path);
        sim.read(0, 65536).unwrap();
        sim.flush().unwrap();
        assert_eq!(sim.write(1 << 20, &[1; 512], false), Err(Errno::EINVAL));
        drop(sim);
        assert!(fs::read(&path).unwrap() == before, "who reads changes nothing");
        let sim = open(&path);
        let log = sim.target().chain().top().disk.log.clone();
        if zeroes {
            sim.write_zeroes(0, 65536, false).unwrap();
        } else {
            sim.write(0, &[1; 512], false).unwrap();
        }
        assert_eq!(autoclear(&path), [0; 8]);
        assert!(log.begins_with_a_synced_write(88), "before all others");
    }
}

#[test]
fn a_change_that_failed_is_one() {
    let scratch = Scratch::in_memory("qcow2-half");
    let path = scratch.path("image");
    create(&path, "cluster_size=64k", 1 << 20);
    let sim = open(&path);
    sim.write(0, &[1; 512], false).unwrap();
    sim.flush().unwrap();
    assert!(!sim.target().chain().top().pending());
    sim.target().chain().top().take().map(drop).unwrap();
    // The next write is that of the table.
    sim.target().chain().top().disk.fail_after = Some(0);
    assert_eq!(sim.write(65536, &[1; 512], false), Err(Errno::EIO));
    assert!(sim.target().chain().top().pending());
}

#[test]
fn whole_clusters_are_zeroed_as_a_whole() {
    let scratch = Scratch::in_memory("qcow2-steps");
    scratch.file("base", &[1; 8 << 20]);
    let path = scratch.path("image");
    create(&path, "cluster_size=2M,backing_file=base,backing_fmt=raw", 8 << 20);
    let sim = open(&path);
    sim.write_zeroes((1 << 20) + 4096, 6 << 20, false).unwrap();
    let mut chain = sim.target().chain();
    let entries: Vec<_> = (0..4).map(|n| chain.top().entry(n).unwrap()).collect();
    let zero = entry::Entry::Zero(None);
    assert_eq!(entries[1..3], [zero, zero]);
    assert!(matches!((entries[0], entries[3]), (entry::Entry::Data(_), entry::Entry::Data(_))));
    drop(chain);
    let mut read = sim.read(0, 4 << 20).unwrap();
    read.extend(sim.read(4 << 20, 4 << 20).unwrap());
    let zeroes = (1 << 20) + 4096..(7 << 20) + 4096;
    assert!(read.iter().enumerate().all(|(i, byte)| *byte == u8::from(!zeroes.contains(&i))));
}

#[test]
fn a_discard_leaves_what_a_base_has() {
    let scratch = Scratch::in_memory("qcow2-discard");
    scratch.file("base", &[1; 1 << 20]);
    let path = scratch.path("image");
    create(&path, "cluster_size=64k,backing_file=base,backing_fmt=raw", 1 << 20);
    let sim = open(&path);
    sim.discard(0, 65536).unwrap();
    sim.write_zeroes(65536, 65536, false).unwrap();
    let entry = |n| sim.target().chain().top().entry(n).unwrap();
    assert_eq!([entry(0), entry(1)], [entry::Entry::Missing, entry::Entry::Zero(None)]);
    assert_eq!(sim.read(65024, 1024).unwrap(), [[1; 512], [0; 512]].concat());
}

#[test]
fn one_group_without_a_copy() {
    let scratch = Scratch::in_memory("qcow2-pieces");
    let path = scratch.path("image");
    create(&path, "cluster_size=64k", 8 << 20);
    let sim = open(&path);
    sim.write(0, &[1; 1 << 20], false).unwrap();
    let chain = &sim.target().chain;
    // Clusters that are next to each other are one piece, of the image's file.
    let plan = chain.lock().unwrap().plan(4096, 1 << 19).unwrap();
    let file = plan.pieces.iter().all(|piece| piece.file == sim.target().file);
    assert!(plan.slot.is_none() && plan.pieces.len() == 1 && file, "{:?}", plan.pieces);
    // What is nowhere is one piece of zeroes.
    let plan = chain.lock().unwrap().plan(4 << 20, 1 << 20).unwrap();
    assert!(plan.slot.is_none() && plan.pieces.len() == 1, "{:?}", plan.pieces);
    assert_eq!(sim.read(9 << 20, 512), Ok(vec![0; 512]), "the block layer does not ask");
}

#[test]
fn what_is_hidden_takes_memory_for_a_moment() {
    let scratch = Scratch::in_memory("qcow2-slots");
    let model: Vec<u8> = (0..4u32 << 16).map(|i| (i / 97) as u8).collect();
    let (raw, path) = (scratch.file("raw", &model), scratch.path("image"));
    qemu_img(&["convert", "-c", "-f", "raw", "-O", "qcow2", text(&raw), text(&path)]);
    let sim = open(&path);
    let used = |sim: &Sim<Qcow2>| sim.target().chain().bounced();
    for _ in 0..100 {
        assert!(sim.read(0, 65536).unwrap() == model[..65536]);
    }
    assert_eq!(used(&sim), (1, 1, 0), "slots, free ones, and blocks of memory");
    // Nobody else gets it as long as it is read.
    let plan = |offset| sim.target().chain().plan(offset, 65536).unwrap();
    let (first, second) = (plan(0), plan(65536));
    assert!(matches!(used(&sim), (2, 0, 256..)), "{:?}", used(&sim));
    assert_ne!(first.pieces[0].offset, second.pieces[0].offset);
    drop((first, second));
    assert_eq!(used(&sim), (2, 2, 0));
    drop(sim);
    // An error after some of it was there.
    let mut bytes = fs::read(&path).unwrap();
    let entry::Entry::Compressed(second) = open(&path).target().chain().top().entry(1).unwrap() else {
        panic!("it is not compressed")
    };
    bytes[second.offset as usize..][..16].fill(0xff);
    fs::write(&path, bytes).unwrap();
    let sim = open(&path);
    assert_eq!(sim.read(0, 2 << 16), Err(Errno::EIO));
    assert_eq!(used(&sim), (1, 1, 0));
    drop(sim);
    // The last sector of a base.
    scratch.file("base", &model[..65536 + 100]);
    let top = scratch.path("top");
    create(&top, "cluster_size=64k,backing_file=base,backing_fmt=raw", 1 << 20);
    let sim = open(&top);
    for _ in 0..2 {
        let read = sim.read(65536 - 512, 2048).unwrap();
        assert!(read[..612] == model[65536 - 512..65536 + 100] && read[612..] == [0; 1436]);
    }
    assert_eq!(used(&sim), (1, 1, 0));
}

#[test]
fn what_is_not_served() {
    let scratch = Scratch::in_memory("qcow2-refused");
    let path = scratch.path("image");
    let why = |path: &Path| attempt(path, Access::default()).unwrap_err().to_string();
    create(&path, "cluster_size=64k", 1 << 20);
    let first = open(&path);
    let second = Qcow2::open(&path, Access::default()).unwrap_err();
    assert!(second.to_string().contains("another process has it locked"));
    drop(first);
    create(&path, "extended_l2=on", 1 << 20);
    assert!(why(&path).contains("extended L2"), "{}", why(&path));
    let data = format!("data_file={}", text(&scratch.path("data")));
    create(&path, &data, 1 << 20);
    assert!(why(&path).contains("external data file"), "{}", why(&path));
    fs::write(&path, [0; 4096]).unwrap();
    assert!(why(&path).contains("no qcow2"));
    fs::write(&path, []).unwrap();
    assert!(why(&path).contains("no qcow2"));
    // A loop, and one that is too deep.
    create(&path, "", 1 << 20);
    let other = scratch.path("other");
    create(&other, "backing_file=image,backing_fmt=qcow2", 1 << 20);
    qemu_img(&["rebase", "-u", "-F", "qcow2", "-b", "other", "-f", "qcow2", text(&path)]);
    assert!(why(&path).contains("builds upon itself"), "{}", why(&path));
    create(&scratch.path("1"), "", 1 << 20);
    for i in 1..33 {
        create(&scratch.path(&(i + 1).to_string()), &format!("backing_file={i},backing_fmt=qcow2"), 1 << 20);
    }
    assert!(why(&scratch.path("33")).contains("more than 32"), "{}", why(&scratch.path("33")));
    assert!(attempt(&scratch.path("32"), Access::default()).is_ok());
    fs::remove_file(scratch.path("1")).unwrap();
    assert!(why(&scratch.path("2")).contains("backing file: No such"), "{}", why(&scratch.path("2")));
}

#[test]
fn errors_are_told_and_kept() {
    let scratch = Scratch::in_memory("qcow2-errors");
    let path = scratch.path("image");
    create(&path, "cluster_size=64k", 1 << 20);
    let sim = open(&path);
    sim.write(0, &[1; 65536], false).unwrap();
    sim.break_file(Some(sim.target().file), Errno::ENOSPC);
    assert_eq!(sim.read(0, 512), Err(Errno::ENOSPC));
    assert_eq!(sim.write(0, &[0; 512], false), Err(Errno::ENOSPC));
    assert_eq!(sim.discard(0, 4096), Err(Errno::ENOSPC));
    assert_eq!(sim.flush(), Err(Errno::ENOSPC));
    sim.break_file(None, Errno::EIO);
    // Nobody knows what that flush has lost.
    assert_eq!(sim.flush(), Err(Errno::EIO));
    assert_eq!(sim.write(0, &[2; 512], true), Err(Errno::EIO));
    assert_eq!(sim.read(0, 512), Ok(vec![1; 512]));
}

#[test]
fn read_only() {
    let scratch = Scratch::in_memory("qcow2-read-only");
    let path = scratch.path("image");
    create(&path, "cluster_size=64k", 1 << 20);
    open(&path).write(0, &[1; 4096], false).unwrap();
    let before = fs::read(&path).unwrap();
    let target = attempt(&path, Access { read_only: true, ..Access::default() }).unwrap();
    let geometry = target.geometry();
    assert!(
        geometry.read_only && geometry.discard == 0 && !geometry.write_zeroes && geometry.size == 1 << 20
    );
    let sim = Sim::new(target).unwrap();
    assert_eq!(sim.read(0, 4096), Ok(vec![1; 4096]));
    for offset in [0, 1 << 19] {
        assert_eq!(sim.write(offset, &[2; 512], false), Err(Errno::EROFS));
        assert_eq!(sim.write_zeroes(offset, 4096, false), Err(Errno::EROFS));
    }
    drop(sim);
    assert!(fs::read(&path).unwrap() == before);
}

#[test]
fn qemu_and_we_notice_each_other() {
    let scratch = Scratch::in_memory("qcow2-in-use");
    let path = scratch.path("image");
    create(&scratch.path("base"), "cluster_size=64k", 1 << 20);
    create(&path, "cluster_size=64k,backing_file=base,backing_fmt=qcow2", 1 << 20);
    let refused = |args: &[&str], path: &Path| {
        let output = Command::new(args[0]).args(&args[1..]).arg(path).output().unwrap();
        String::from_utf8_lossy(&output.stderr).contains("lock")
    };
    let (reads, writes) = (["qemu-img", "check"], ["qemu-io", "-f", "qcow2", "-c", "write 0 512"]);
    let sim = open(&path);
    assert!(refused(&reads, &path) && refused(&writes, &path));
    assert!(refused(&writes, &scratch.path("base")), "a base is only read");
    qemu_img(&["info", text(&scratch.path("base"))]);
    drop(sim);
    check(&path);
    let reader = attempt(&path, Access { read_only: true, ..Access::default() }).unwrap();
    assert!(refused(&writes, &path));
    check(&path);
    drop(reader);
    // The other way round: it has the image until its input ends.
    let mut other = Command::new("qemu-io")
        .args(["-f", "qcow2", text(&path)])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    let file = fs::File::open(&path).unwrap();
    while !ublk_server::byte_is_locked(&file, 101).unwrap() {
        assert!(Instant::now() < end, "it does not lock its image");
    }
    let why = Qcow2::open(&path, Access::default()).unwrap_err();
    assert!(why.to_string().contains("QEMU"), "{why}");
    assert_eq!(why.kind(), io::ErrorKind::ResourceBusy);
    assert!(Qcow2::open(&path, Access { read_only: true, ..Access::default() }).is_err());
    assert!(Qcow2::open(&path, Access { look: true, ..Access::default() }).is_ok());
    drop(other.stdin.take());
    other.wait().unwrap();
    drop(attempt(&path, Access::default()).unwrap());
}
