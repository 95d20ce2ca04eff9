// SPDX-License-Identifier: GPL-2.0

//! What debugfs shows of a device, in `ublk_rs/<number>`, for who looks for a request that does not
//! end: the phase, and of each queue how many slots are in which stage and what those that have a
//! request are about.
//!
//! Nothing is kept for this alone: the age of a request is the block layer's.

use crate::{
    device::Device,
    slot::Slot, //
};
use kernel::{
    debugfs::{
        Dir,
        File,
        Writer, //
    },
    fmt,
    prelude::*,
    str::CString,
    sync::Arc, //
};

/// A file of debugfs about a device; it goes when this is dropped.
pub(crate) type DebugFile = Pin<KBox<File<View>>>;

/// Makes the file of a device.
pub(crate) fn new_file(dir: &Dir, dev: Arc<Device>) -> Result<DebugFile> {
    let name = CString::try_from_fmt(fmt!("{}", dev.id()))?;
    KBox::pin_init(dir.read_only_file(&name, View(dev)), GFP_KERNEL)
}

/// A device, as it is shown.
pub(crate) struct View(Arc<Device>);

impl Writer for View {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dev = &self.0;
        {
            let state = dev.state.lock();
            write!(f, "phase {} gate {:?}", state.phase.name(), dev.gate())?;
            if let Some(server) = state.phase.server() {
                write!(f, " server {} {:?}", server.leader.tgid(), server.trust)?;
            }
            writeln!(f)?;
        }
        for (q_id, queue) in dev.queues().enumerate() {
            write!(f, "queue {q_id}:")?;
            let mut slots = StageCounts::default();
            queue.slots().for_each(|slot| slots.add(slot));
            slots.write(f)?;
            writeln!(f)?;
            if let Some(batch) = queue.batch() {
                let (tags, commands, telling) = batch.snapshot();
                let telling = if telling { ", one telling" } else { "" };
                writeln!(f, "  {tags} tags to tell, {commands} commands{telling}")?;
            }
            for (tag, slot) in queue.slots().enumerate() {
                let at = slot.snapshot();
                let Some(rq) = at.request else {
                    continue;
                };
                let generation = at.generation.count();
                write!(
                    f,
                    "  tag {tag} {} generation {} {:?} sector {} bytes {}",
                    at.stage, generation, rq.op, rq.sector, rq.bytes
                )?;
                if let Some(age) = rq.age {
                    write!(f, " for {} ms", age.as_millis())?;
                }
                if let Some(task) = at.task {
                    write!(f, " task {}", task.pid())?;
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

/// How many slots are in which stage. There are few stages, so they are looked for one by one.
#[derive(Default)]
struct StageCounts([(&'static str, u32); Slot::STAGES]);

impl StageCounts {
    fn add(&mut self, slot: &Slot) {
        let stage = slot.snapshot().stage;
        for (name, count) in &mut self.0 {
            if *count == 0 {
                *name = stage;
            }
            if *name == stage {
                *count += 1;
                return;
            }
        }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, count) in self.0.iter().filter(|(_, count)| *count > 0) {
            write!(f, " {count} {name}")?;
        }
        Ok(())
    }
}
