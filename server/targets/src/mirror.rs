// SPDX-License-Identifier: GPL-2.0

//! A device that is several times there: each write goes to all legs, a read comes
//! from the first. A leg that fails is dropped, and the others go on.
//!
//! When the server is killed, legs may differ where writes were under way.

use crate::open::{Access, about, all_differ, can_zero, is_gone, open, zero};
use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use ublk_server::{Allocate, Answer, Errno, FileId, Files, Geometry, Io, Read, Request, Target, Write, log};

/// What is remembered of legs, longer than a server lives.
pub trait Record: Send + Sync {
    /// This leg is dropped. Told before anybody may rely on that: if this fails, so does the
    /// request that found out.
    fn dropped(&self, leg: &Path) -> io::Result<()>;

    /// Was it dropped, by whichever server? Then it lacks what was written since.
    fn was_dropped(&self, leg: &Path) -> io::Result<bool>;
}

/// Files with the same data.
pub struct Mirror {
    files: Files,
    legs: Vec<(FileId, PathBuf)>,
    /// Bit n: leg n has all data. Never 0: the last one is kept, whatever it does.
    whole: AtomicU64,
    /// Those that the next server would take for whole: at least `whole`.
    recorded: Mutex<u64>,
    /// Those that could not be opened, and why.
    missing: Vec<(PathBuf, io::Error)>,
    record: Box<dyn Record>,
    geometry: Geometry,
}

impl fmt::Debug for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mirror").field("legs", &self.legs).field("whole", &self.whole).finish_non_exhaustive()
    }
}

/// Does it tell of the file? These come of memory or of a device that goes away, and
/// a read that is done elsewhere needs no more. A write that is missed is another thing.
fn is_of_leg(errno: Errno) -> bool {
    ![Errno::ENOMEM, Errno::EAGAIN, Errno::EINTR, Errno::ECANCELED].contains(&errno)
}

/// Can a leg that says so have done a part? The others are told before it begins.
fn may_have_begun(errno: Errno) -> bool {
    is_of_leg(errno) && ![Errno::EINVAL, Errno::EFAULT, Errno::ENODEV, Errno::EOPNOTSUPP].contains(&errno)
}

fn refused(leg: &Path) -> io::Error {
    let path = leg.display();
    about(
        leg,
        format_args!(
            "it was dropped from a mirror, and lacks what was written since: copy all data to it, then \
             `fublk readmit {path}`, or leave it out"
        ),
    )
}

impl Mirror {
    /// Open 1 to 16 files, which have the same data. The device is as large as the
    /// smallest. A leg that was dropped is not the same any more, and refused. One that is
    /// not there, or is refused, is dropped if the mirror may be `degraded`, and one is left;
    /// but not before it is served.
    ///
    /// Where errors matter, `access` is direct: what the page cache can not write is
    /// not known before the next flush, but read from the file before.
    pub fn open<P: AsRef<Path>>(
        paths: &[P],
        access: Access,
        degraded: bool,
        record: Box<dyn Record>,
    ) -> io::Result<Mirror> {
        if paths.is_empty() || paths.len() > 16 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a mirror has 1 to 16 files"));
        }
        all_differ(paths)?;
        let (mut files, mut legs, mut missing) = (Files::default(), Vec::new(), Vec::new());
        let (mut size, mut block, mut align) = (u64::MAX, 512, 512);
        let mut zeroes = !access.read_only;
        for path in paths {
            let path = path.as_ref();
            let stale = !access.look && record.was_dropped(path)?;
            let backing = match if stale { Err(refused(path)) } else { open(path, access) } {
                Ok(backing) => backing,
                Err(e) if degraded && (stale || is_gone(&e)) => {
                    missing.push((path.to_owned(), e));
                    continue;
                }
                Err(e) => return Err(e),
            };
            size = size.min(backing.size);
            block = block.max(backing.block);
            align = align.max(backing.align);
            // All or none: a leg that can not zero what others do has other data.
            zeroes &= access.look || can_zero(&backing);
            legs.push((files.add(backing.file), path.to_owned()));
        }
        if legs.is_empty() {
            return Err(missing.swap_remove(0).1);
        }
        let geometry = Geometry {
            size: size / u64::from(block) * u64::from(block),
            block,
            align,
            read_only: access.read_only,
            cached: true,
            discard: if zeroes { 4096 } else { 0 },
            write_zeroes: zeroes,
            ..Geometry::default()
        };
        let whole = AtomicU64::new((1 << legs.len()) - 1);
        let recorded = Mutex::new(whole.load(Ordering::SeqCst));
        Ok(Mirror { files, legs, whole, recorded, missing, record, geometry })
    }

    /// The legs that have all data.
    fn whole(&self) -> Vec<usize> {
        // SeqCst here and below: after the answer of a write, no thread may read from
        // a leg that has missed it.
        let whole = self.whole.load(Ordering::SeqCst);
        (0..self.legs.len()).filter(|leg| whole & 1 << leg != 0).collect()
    }

    /// A leg has failed. That is an error if it is the last one.
    fn drop_leg(&self, leg: usize, errno: Errno) -> Result<(), Errno> {
        let path = &self.legs[leg].1;
        let dropped = self.whole.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |whole| {
            let left = whole & !(1 << leg);
            (left != 0 && left != whole).then_some(left)
        });
        match dropped {
            Ok(_) => {
                log(format_args!("mirror: {} is dropped: {errno}", path.display()));
                self.remember()
            }
            // By somebody else, who may not have recorded it yet.
            Err(whole) if whole & 1 << leg == 0 => self.remember(),
            Err(_) => Err(errno),
        }
    }

    /// Record what is dropped and was not recorded. Nothing that a leg has missed may
    /// be answered before: after a kill, the next server would read from that leg.
    fn remember(&self) -> Result<(), Errno> {
        let mut recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        let dropped = *recorded & !self.whole.load(Ordering::SeqCst);
        for leg in (0..self.legs.len()).filter(|leg| dropped & 1 << leg != 0) {
            self.record.dropped(&self.legs[leg].1).map_err(|e| {
                log(format_args!("mirror: that can not be recorded: {e}"));
                Errno::EIO
            })?;
            *recorded &= !(1 << leg);
        }
        Ok(())
    }

    /// What came of something that was done with several legs. As long as one has
    /// done it, those that have failed are dropped. Where all have failed, each may have
    /// done another part of it: that of one stays, or what was read could change back.
    fn judge(&self, legs: &[usize], results: &[Result<(), Errno>]) -> Result<(), Errno> {
        let first = results.iter().find_map(|result| result.err());
        let Some(first) = first else { return self.remember() };
        if results.iter().all(|result| result.is_err()) {
            if results.iter().any(|result| result.is_err_and(may_have_begun)) {
                let mut others = legs.iter().zip(results).skip(1);
                others.try_for_each(|(leg, result)| self.drop_leg(*leg, result.err().unwrap_or(first)))?;
            }
            return Err(first);
        }
        for (leg, result) in legs.iter().zip(results) {
            if let Err(errno) = result {
                self.drop_leg(*leg, *errno)?;
            }
        }
        // Those that have done it may have been dropped meanwhile.
        let whole = self.whole.load(Ordering::SeqCst);
        let done = legs.iter().zip(results).any(|(leg, result)| result.is_ok() && whole & 1 << leg != 0);
        if done { Ok(()) } else { Err(first) }
    }

    /// A leg is dropped when another one has done what it could not: an error that all
    /// have is one of the request, or of the device, and no reason to lose any.
    async fn read<'r>(&self, mut read: Read<'r>) -> Answer<'r> {
        let offset = read.offset();
        let mut failed = Vec::new();
        for leg in self.whole() {
            read = match read.try_file(self.legs[leg].0, offset).await {
                Ok(answer) => {
                    let mut all = failed.into_iter().filter(|(_, errno)| is_of_leg(*errno));
                    return match all.try_for_each(|(leg, errno)| self.drop_leg(leg, errno)) {
                        Ok(()) => answer,
                        Err(errno) => answer.instead(errno),
                    };
                }
                Err((read, errno)) => {
                    failed.push((leg, errno));
                    read
                }
            };
        }
        read.fail(failed.first().map_or(Errno::EIO, |(_, errno)| *errno))
    }

    async fn write<'r>(&self, write: Write<'r>) -> Answer<'r> {
        let legs = self.whole();
        let places: Vec<_> = legs.iter().map(|leg| (self.legs[*leg].0, write.offset())).collect();
        let results = write.copy_to(&places).await;
        match self.judge(&legs, &results) {
            Ok(()) => write.done(),
            Err(errno) => write.fail(errno),
        }
    }

    async fn sync(&self, io: &Io) -> Result<(), Errno> {
        let legs = self.whole();
        let mut results = Vec::new();
        for leg in &legs {
            results.push(io.sync(self.legs[*leg].0).await);
        }
        self.judge(&legs, &results)
    }

    async fn allocate(&self, io: &Io, how: Allocate, offset: u64, len: u32) -> Result<(), Errno> {
        let legs = self.whole();
        let mut results = Vec::new();
        for leg in &legs {
            match zero(io, self.legs[*leg].0, how, offset, len).await {
                // It can not, and all are as good as before. Where others have done it,
                // this one has other data.
                Err(Errno::EOPNOTSUPP) if !results.iter().any(Result::is_ok) => {
                    return Err(Errno::EOPNOTSUPP);
                }
                result => results.push(result),
            }
        }
        self.judge(&legs, &results)
    }
}

impl Target for Mirror {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn files(&self) -> &Files {
        &self.files
    }

    /// Now they miss writes.
    fn prepare(&self, _queues: u16) -> io::Result<()> {
        for (path, why) in &self.missing {
            log(format_args!("mirror: {} is dropped: {why}", path.display()));
            self.record.dropped(path)?;
        }
        Ok(())
    }

    async fn serve<'r>(&'r self, io: &'r Io, request: Request<'r>) -> Answer<'r> {
        match request {
            Request::Read(read) => self.read(read).await,
            Request::Write(write) => self.write(write).await,
            Request::Flush(flush) => flush.answer(self.sync(io).await),
            Request::Discard(range) => {
                let (offset, len) = (range.offset(), range.len());
                range.answer(self.allocate(io, Allocate::Punch, offset, len).await)
            }
            Request::WriteZeroes(range, keep) => {
                let (offset, len) = (range.offset(), range.len());
                let how = if keep { Allocate::Zero } else { Allocate::Punch };
                range.answer(self.allocate(io, how, offset, len).await)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Random, Scratch, compare};
    use std::sync::{Arc, MutexGuard, atomic::AtomicBool};
    use ublk_server::sim::Sim;

    #[derive(Clone, Default)]
    struct Dropped {
        all: Arc<Mutex<Vec<PathBuf>>>,
        is_full: Arc<AtomicBool>,
    }

    impl Dropped {
        fn lock(&self) -> MutexGuard<'_, Vec<PathBuf>> {
            self.all.lock().unwrap()
        }
    }

    impl Record for Dropped {
        fn dropped(&self, leg: &Path) -> io::Result<()> {
            if self.is_full.load(Ordering::SeqCst) {
                return Err(io::Error::other("full"));
            }
            self.lock().push(leg.to_owned());
            Ok(())
        }

        fn was_dropped(&self, leg: &Path) -> io::Result<bool> {
            Ok(self.lock().iter().any(|path| path == leg))
        }
    }

    fn open(paths: &[PathBuf], degraded: bool, record: &Dropped) -> Result<Mirror, String> {
        let mirror = Mirror::open(paths, Access::default(), degraded, Box::new(record.clone()));
        mirror.map_err(|e| e.to_string())
    }

    fn mirror(scratch: &Scratch, legs: usize, data: &[u8]) -> (Sim<Mirror>, Vec<PathBuf>, Dropped) {
        let paths: Vec<_> = (0..legs).map(|i| scratch.file(&i.to_string(), data)).collect();
        let dropped = Dropped::default();
        let mirror = open(&paths, false, &dropped).unwrap();
        (Sim::new(mirror).unwrap(), paths, dropped)
    }

    #[test]
    fn like_an_array_whichever_leg_fails() {
        let scratch = Scratch::new("mirror");
        for seed in 0..12 {
            let mut random = Random::new(seed as u64);
            let mut model = random.bytes(128 << 10);
            let (sim, paths, dropped) = mirror(&scratch, 3, &model);
            compare(&sim, &mut model, &mut random, 60);
            for path in &paths {
                assert!(std::fs::read(path).unwrap() == model, "legs are the same");
            }
            // One after the other fails; what is read is right all the time.
            let mut order = [0, 1, 2];
            order.rotate_left(seed % 3);
            for broken in &order[..2] {
                sim.break_file(Some(sim.target().legs[*broken].0), Errno::EIO);
                compare(&sim, &mut model, &mut random, 60);
                assert!(dropped.lock().contains(&paths[*broken]));
                assert!(sim.target().whole.load(Ordering::SeqCst) & 1 << broken == 0);
            }
            assert_eq!(dropped.lock().len(), 2);
            assert!(std::fs::read(&paths[order[2]]).unwrap() == model);
        }
    }

    #[test]
    fn the_last_leg_stays() {
        let scratch = Scratch::new("mirror-last");
        let (sim, _, dropped) = mirror(&scratch, 2, &[7; 8192]);
        sim.break_file(Some(sim.target().legs[0].0), Errno::EIO);
        assert!(sim.write(0, &[1; 512], false).is_ok());
        sim.break_file(Some(sim.target().legs[1].0), Errno::ENOSPC);
        assert_eq!(sim.write(0, &[2; 512], false), Err(Errno::ENOSPC));
        assert_eq!(sim.read(0, 512), Err(Errno::ENOSPC));
        assert_eq!(sim.flush(), Err(Errno::ENOSPC));
        sim.break_file(None, Errno::EIO);
        assert_eq!(sim.read(0, 512).unwrap(), [1; 512]);
        // The leg that is back has missed a write, and is not asked.
        assert_eq!(dropped.lock().len(), 1);
        assert_eq!(sim.target().whole(), [1]);
    }

    #[test]
    fn what_can_not_be_recorded_is_an_error() {
        let scratch = Scratch::new("mirror-record");
        let paths = [scratch.file("a", &[7; 8192]), scratch.file("b", &[7; 8192])];
        let dropped = Dropped::default();
        dropped.is_full.store(true, Ordering::SeqCst);
        let sim = Sim::new(open(&paths, false, &dropped).unwrap()).unwrap();
        sim.break_file(Some(sim.target().legs[1].0), Errno::EIO);
        assert_eq!(sim.write(0, &[1; 512], false), Err(Errno::EIO));
        // Nor are those good that come later, without the leg.
        assert_eq!(sim.write(0, &[2; 512], false), Err(Errno::EIO));
        assert_eq!(sim.flush(), Err(Errno::EIO));
        dropped.is_full.store(false, Ordering::SeqCst);
        assert_eq!(sim.write(0, &[3; 512], false), Ok(()));
        assert_eq!(*sim.target().recorded.lock().unwrap(), 1);
    }

    #[test]
    fn a_read_drops_only_what_another_leg_can_do() {
        let scratch = Scratch::new("mirror-read");
        let (sim, _, dropped) = mirror(&scratch, 3, &[7; 8192]);
        // Memory is short.
        sim.break_file(Some(sim.target().legs[0].0), Errno::ENOMEM);
        assert_eq!(sim.read(0, 512).unwrap(), [7; 512]);
        // All fail: beyond the end of the files.
        sim.break_file(None, Errno::EIO);
        assert_eq!(sim.read(8192, 512), Err(Errno::EIO));
        assert_eq!(sim.target().whole(), [0, 1, 2]);
        sim.break_file(Some(sim.target().legs[0].0), Errno::EIO);
        assert_eq!(sim.read(0, 512).unwrap(), [7; 512]);
        assert_eq!(sim.target().whole(), [1, 2]);
        assert_eq!(dropped.lock().len(), 1);
    }

    #[test]
    fn what_all_legs_fail_to_do_is_that_of_one() {
        let scratch = Scratch::new("mirror-all");
        let (sim, paths, dropped) = mirror(&scratch, 2, &[7; 8192]);
        let mirror = sim.target();
        // Refused before it began: nobody differs.
        let refused = [Err(Errno::ENOMEM), Err(Errno::EINVAL)];
        assert_eq!(mirror.judge(&[0, 1], &refused), Err(Errno::ENOMEM));
        assert_eq!(mirror.whole(), [0, 1]);
        let failed = [Err(Errno::ENOMEM), Err(Errno::EIO)];
        assert_eq!(mirror.judge(&[0, 1], &failed), Err(Errno::ENOMEM));
        assert_eq!(mirror.whole(), [0]);
        assert_eq!(*dropped.lock(), paths[1..]);
    }

    #[test]
    fn not_the_same_file_twice() {
        let scratch = Scratch::new("mirror-twice");
        let path = scratch.file("a", &[0; 8192]);
        let link = scratch.path("b");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let twice = open(&[path, link], false, &Dropped::default()).unwrap_err();
        assert!(twice.ends_with("b is there twice"), "{twice}");
    }

    #[test]
    fn what_was_dropped_is_refused() {
        let scratch = Scratch::new("mirror-stale");
        let (sim, paths, dropped) = mirror(&scratch, 2, &[7; 8192]);
        sim.break_file(Some(sim.target().legs[0].0), Errno::EIO);
        sim.write(0, &[1; 512], false).unwrap();
        drop(sim);
        let said = open(&paths, false, &dropped).unwrap_err();
        assert!(said.contains("0: it was dropped") && said.contains("`fublk readmit /"), "{said}");
        // Only the other one has all data.
        let sim = Sim::new(open(&paths, true, &dropped).unwrap()).unwrap();
        assert_eq!(sim.read(0, 512).unwrap(), [1; 512]);
        drop(sim);
        assert!(open(&paths[..1], true, &dropped).unwrap_err().contains("it was dropped"));
        // Somebody has copied all data.
        dropped.lock().clear();
        assert_eq!(open(&paths, false, &dropped).unwrap().whole(), [0, 1]);
    }

    #[test]
    fn a_leg_that_is_not_there_is_dropped_when_it_is_served() {
        let scratch = Scratch::new("mirror-gone");
        let dropped = Dropped::default();
        let paths = [scratch.path("gone"), scratch.file("there", &[7; 8192])];
        assert!(open(&paths, false, &dropped).unwrap_err().contains("gone: No such file"));
        let mirror = open(&paths, true, &dropped).unwrap();
        assert_eq!((dropped.lock().len(), mirror.legs.len(), mirror.geometry.size), (0, 1, 8192));
        mirror.prepare(1).unwrap();
        assert_eq!(*dropped.lock(), paths[..1]);
        // One that somebody uses is no reason to go on without it.
        let other = scratch.file("other", &[7; 8192]);
        let used = [paths[1].clone(), other];
        assert!(open(&used, true, &dropped).unwrap_err().contains("in use"));
        drop(mirror);
        assert!(open(&paths[..1], true, &Dropped::default()).unwrap_err().contains("No such file"));
        // What can not be remembered is not begun.
        dropped.lock().clear();
        dropped.is_full.store(true, Ordering::SeqCst);
        assert!(open(&paths, true, &dropped).unwrap().prepare(1).is_err());
    }

    #[test]
    fn a_leg_that_alone_can_not_zero_is_dropped() {
        let scratch = Scratch::new("mirror-zero");
        let (sim, ..) = mirror(&scratch, 2, &[7; 8192]);
        sim.break_file(Some(sim.target().legs[0].0), Errno::EOPNOTSUPP);
        assert_eq!(sim.discard(0, 4096), Err(Errno::EOPNOTSUPP));
        assert_eq!(sim.target().whole(), [0, 1], "nothing has been done");
        sim.break_file(Some(sim.target().legs[1].0), Errno::EOPNOTSUPP);
        assert_eq!(sim.discard(0, 4096), Ok(()));
        assert_eq!(sim.target().whole(), [0]);
    }

    #[test]
    fn a_leg_that_can_only_punch_stays() {
        let scratch = Scratch::new("mirror-punch");
        let (sim, paths, _) = mirror(&scratch, 2, &[7; 8192]);
        for leg in [1, 0] {
            sim.write(0, &[7; 4096], false).unwrap();
            sim.only_punch(sim.target().legs[leg].0);
            assert_eq!(sim.write_zeroes(0, 4096, true), Ok(()));
            assert_eq!(sim.target().whole(), [0, 1]);
            assert!(paths.iter().all(|path| std::fs::read(path).unwrap()[..4096] == [0; 4096]));
        }
    }
}
