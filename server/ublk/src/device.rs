// SPDX-License-Identifier: GPL-2.0

//! Devices: made, served, taken over.

use crate::{Errno, Geometry, Mode, Target, queue};
use std::{
    fs::File,
    io,
    panic::{self, AssertUnwindSafe},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};
use ublk_ring::{Control, ControlCmd, has_fused_commands};
use ublk_sys::{
    CpuSet, is_root, pin_thread,
    uapi::{self, ControlOp, DevInfo, Features, MAX_QUEUE_DEPTH, Params, Plain},
};

/// What becomes of a device whose server dies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Recovery {
    /// It is stopped.
    #[default]
    None,
    /// What the server had fails, new requests wait for the next server.
    Wait,
    /// All requests wait for the next server, and may be carried out twice.
    Reissue,
    /// All requests fail until there is the next server.
    Fail,
}

impl Recovery {
    fn features(self) -> Features {
        match self {
            Recovery::None => Features::default(),
            Recovery::Wait => Features::USER_RECOVERY,
            Recovery::Reissue => Features::USER_RECOVERY | Features::USER_RECOVERY_REISSUE,
            Recovery::Fail => Features::USER_RECOVERY | Features::USER_RECOVERY_FAIL_IO,
        }
    }
}

/// What a device is to be.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Its number; `None`: the first that is free.
    pub id: Option<u32>,
    /// How many queues, each with a thread.
    pub queues: u16,
    /// How many requests at a time, in a queue.
    pub depth: u16,
    /// How to move data; `None`: the best that there is.
    pub mode: Option<Mode>,
    /// Whether commands are about many requests; `None`: as is best with that mode.
    pub batch: Option<bool>,
    /// What becomes of it when the server dies.
    pub recovery: Recovery,
    /// The most data of a request, in bytes.
    pub max_io: u32,
    /// By an ordinary user: for who made it, and those that may use its node.
    pub unprivileged: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            id: None,
            queues: 1,
            depth: 128,
            mode: None,
            batch: None,
            recovery: Recovery::None,
            max_io: 1 << 20,
            unprivileged: !is_root(),
        }
    }
}

/// Commands to the driver about any device, also of another server.
pub mod control {
    use super::*;

    const NONE: u32 = u32::MAX;

    fn plain(op: ControlOp, id: u32, data: u64, memory: &mut [u8]) -> io::Result<u32> {
        let cmd = ControlCmd { op, id, queue: u16::MAX, data, path_len: 0 };
        Ok(Control::open()?.execute(&cmd, memory)?)
    }

    /// The path of a device's node tells the driver who may.
    fn with_path(op: ControlOp, id: u32, data: u64, memory: &mut [u8]) -> io::Result<u32> {
        let path = format!("/dev/ublkc{id}");
        let path_len = u16::try_from(path.len()).map_err(io::Error::other)?;
        let mut all = [path.as_bytes(), memory].concat();
        let cmd = ControlCmd { op, id, queue: u16::MAX, data, path_len };
        let result = Control::open()?.execute(&cmd, &mut all)?;
        memory.copy_from_slice(&all[path.len()..]);
        Ok(result)
    }

    /// Was it made by an ordinary user?
    pub fn is_unprivileged(id: u32) -> bool {
        let mut info = DevInfo::default();
        with_path(ControlOp::GetDevInfo2, id, 0, info.bytes_mut()).is_ok()
            && Features(info.flags).has(Features::UNPRIVILEGED_DEV)
    }

    pub(super) fn execute(op: ControlOp, id: u32, data: u64, memory: &mut [u8]) -> io::Result<u32> {
        if matches!(op, ControlOp::AddDev | ControlOp::GetFeatures) {
            return plain(op, id, data, memory);
        }
        if !is_root() {
            return with_path(op, id, data, memory);
        }
        match plain(op, id, data, memory) {
            // That is what a device of somebody else says, and some others.
            Err(e) if e.raw_os_error() == Some(Errno::EINVAL.get()) && is_unprivileged(id) => {
                with_path(op, id, data, memory)
            }
            result => result,
        }
    }

    /// What the driver can do.
    pub fn features() -> io::Result<Features> {
        let mut bits = [0; 8];
        execute(ControlOp::GetFeatures, NONE, 0, &mut bits)?;
        Ok(Features(u64::from_ne_bytes(bits)))
    }

    /// What the driver knows of a device.
    pub fn info(id: u32) -> io::Result<DevInfo> {
        let mut info = DevInfo::default();
        execute(ControlOp::GetDevInfo, id, 0, info.bytes_mut())?;
        Ok(info)
    }

    /// Its parameters.
    pub fn params(id: u32) -> io::Result<Params> {
        let mut params = Params { len: Params::LEN, ..Params::default() };
        execute(ControlOp::GetParams, id, 0, params.bytes_mut())?;
        Ok(params)
    }

    /// Stop a device. Its server ends.
    pub fn stop(id: u32) -> io::Result<()> {
        execute(ControlOp::StopDev, id, 0, &mut []).map(drop)
    }

    /// Stop a device that nobody has open, or say `EBUSY`.
    pub fn try_stop(id: u32) -> io::Result<()> {
        execute(ControlOp::TryStopDev, id, 0, &mut []).map(drop)
    }

    /// Stop a device, and wait until it is gone.
    pub fn delete(id: u32) -> io::Result<()> {
        execute(ControlOp::DelDev, id, 0, &mut []).map(drop)
    }

    /// A device has another size, in bytes: a multiple of its block.
    pub fn resize(id: u32, size: u64) -> io::Result<()> {
        execute(ControlOp::UpdateSize, id, size / 512, &mut []).map(drop)
    }
}

/// A device of ours.
pub struct Device {
    info: DevInfo,
    mode: Mode,
    /// It is there already, without a server.
    recovers: bool,
}

/// What the threads of a device say.
enum Event {
    Ready,
    Started(io::Result<()>),
    Ended(u16, io::Result<()>),
}

fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why.into())
}

fn choose(wanted: Option<Mode>, offered: Features) -> io::Result<Mode> {
    let can = |mode: Mode| offered.has(feature(mode)) && (mode != Mode::Fused || has_fused_commands());
    match wanted {
        Some(mode) if can(mode) => Ok(mode),
        Some(mode) => Err(io::Error::other(format!("the kernel has no mode {mode}"))),
        None => Mode::ALL
            .into_iter()
            .find(|mode| can(*mode))
            .ok_or_else(|| io::Error::other("the ublk driver is too old")),
    }
}

fn choose_batch(options: &Options, mode: Mode, offered: Features) -> io::Result<bool> {
    let can = offered.has(Features::BATCH_IO) && !options.unprivileged;
    match options.batch {
        Some(true) if !can => Err(io::Error::other("the driver has no batches here")),
        Some(batch) => Ok(batch),
        None => Ok(can && mode.is_best_in_batches()),
    }
}

/// A server that nobody trusts does not see data: the driver lets it move them by the
/// command that answers the request, and in no other way.
fn choose_unprivileged(wanted: Option<Mode>, offered: Features, geometry: &Geometry) -> io::Result<Mode> {
    let denied = |why: &str| io::Error::new(io::ErrorKind::PermissionDenied, why);
    if !offered.has(Features::UNPRIVILEGED_DEV | Features::FUSED_CMD) || !has_fused_commands() {
        return Err(denied(
            "this kernel has no fused commands, and nothing else is for ordinary users: be root",
        ));
    }
    if !matches!(wanted, None | Some(Mode::Fused)) {
        return Err(denied("only mode fused is for ordinary users: be root"));
    }
    if !geometry.moves_once {
        return Err(denied("such a target is not for ordinary users, who must not see data: be root"));
    }
    Ok(Mode::Fused)
}

fn feature(mode: Mode) -> Features {
    match mode {
        Mode::Fused => Features::FUSED_CMD,
        Mode::Auto => Features::AUTO_BUF_REG,
        Mode::Copy => Features::USER_COPY,
    }
}

fn params(geometry: &Geometry, max_io: u32) -> io::Result<Params> {
    let shift = |what, n: u32| {
        u8::try_from(n.trailing_zeros())
            .ok()
            .filter(|_| n.is_power_of_two() && n >= 512)
            .ok_or_else(|| invalid(format!("{what} is {n}, which is no power of 2 from 512 on")))
    };
    if geometry.size == 0 || !geometry.size.is_multiple_of(geometry.block.into()) {
        let (size, block) = (geometry.size, geometry.block);
        return Err(invalid(format!("the size, {size} bytes, is no multiple of the block, {block} bytes")));
    }
    // So that lengths are below 4 GiB.
    const MOST_SECTORS: u32 = 1 << 21;
    let sectors = |on: bool| if on { MOST_SECTORS } else { 0 };
    let mut attrs = if geometry.read_only { uapi::ATTR_READ_ONLY } else { 0 };
    if geometry.cached {
        attrs |= uapi::ATTR_VOLATILE_CACHE | uapi::ATTR_FUA;
    }
    let discards = geometry.discard > 0 || geometry.write_zeroes;
    let types = uapi::PARAM_BASIC | uapi::PARAM_DMA_ALIGN | if discards { uapi::PARAM_DISCARD } else { 0 };
    Ok(Params {
        len: Params::LEN,
        types,
        attrs,
        logical_bs_shift: shift("the block", geometry.block)?,
        physical_bs_shift: shift("the best size", geometry.best)?,
        io_opt_shift: shift("the best size", geometry.best)?,
        io_min_shift: shift("the block", geometry.block)?,
        max_sectors: max_io / 512,
        chunk_sectors: geometry.chunk / 512,
        dev_sectors: geometry.size / 512,
        // The driver wants one for zeroes as well.
        discard_granularity: if geometry.discard == 0 && discards {
            geometry.block
        } else {
            geometry.discard
        },
        max_discard_sectors: sectors(geometry.discard > 0),
        max_write_zeroes_sectors: sectors(geometry.write_zeroes),
        max_discard_segments: u16::from(discards),
        dma_alignment: geometry.align.max(4) - 1,
        ..Params::default()
    })
}

/// Is what was promised of a device that is there already still kept? Else requests would fail,
/// or be lost: the kernel does not look again.
fn keeps(geometry: &Geometry, promised: &Params) -> io::Result<()> {
    let has = |attr| promised.attrs & attr != 0;
    let written = !has(uapi::ATTR_READ_ONLY);
    let block = 1u64.checked_shl(promised.logical_bs_shift.into()).unwrap_or(0);
    let why = if written && geometry.read_only {
        "can be written, but what it was made of is read-only now".into()
    } else if written && geometry.cached && !has(uapi::ATTR_VOLATILE_CACHE) {
        "is never flushed, but what it was made of has to be flushed now".into()
    } else if u64::from(geometry.block) > block {
        format!("has blocks of {block} bytes, but what it was made of has {} now", geometry.block)
    } else if promised.max_discard_sectors > 0 && geometry.discard == 0 {
        "has discard, but what it was made of has not any more".into()
    } else if promised.max_write_zeroes_sectors > 0 && !geometry.write_zeroes {
        "has write zeroes, but what it was made of has not any more".into()
    } else {
        return Ok(());
    };
    Err(invalid(format!("the device {why}")))
}

fn few_enough(queues: u16, geometry: &Geometry) -> io::Result<()> {
    match geometry.queues {
        most if queues <= most => Ok(()),
        1 => Err(invalid("it can have one queue only")),
        most => Err(invalid(format!("it can have {most} queues at most"))),
    }
}

impl Device {
    /// A new device. Nobody sees its disk before it is [served](Self::serve).
    pub fn add(options: &Options, geometry: &Geometry) -> io::Result<Device> {
        if options.queues == 0 || options.depth == 0 || options.depth > MAX_QUEUE_DEPTH {
            return Err(invalid(format!(
                "a device has at least one queue, of 1 to {MAX_QUEUE_DEPTH} requests"
            )));
        }
        few_enough(options.queues, geometry)?;
        let offered = control::features()?;
        let mode = if options.unprivileged {
            choose_unprivileged(options.mode, offered, geometry)?
        } else {
            choose(options.mode, offered)?
        };
        let max_io = if options.unprivileged {
            // All of a request has to be in one command.
            max_io(Mode::Copy, options.max_io)
        } else {
            max_io(mode, options.max_io)
        };
        let max_io = max_io.min(geometry.max_io);
        let mut params = params(geometry, max_io)?;
        let mut flags = Features::CMD_IOCTL_ENCODE | feature(mode) | options.recovery.features();
        if options.unprivileged {
            flags |= Features::UNPRIVILEGED_DEV;
        }
        if choose_batch(options, mode, offered)? {
            flags |= Features::BATCH_IO;
        }
        let mut info = DevInfo {
            nr_hw_queues: options.queues,
            queue_depth: options.depth,
            max_io_buf_bytes: max_io,
            dev_id: options.id.unwrap_or(u32::MAX),
            ublksrv_pid: std::process::id().cast_signed(),
            flags: flags.0,
            ..DevInfo::default()
        };
        control::execute(ControlOp::AddDev, info.dev_id, 0, info.bytes_mut())?;
        let device = Device { info, mode, recovers: false };
        if options.unprivileged {
            wait_for_node(info.dev_id)?;
        }
        let set = if Features(info.flags).has(flags) {
            control::execute(ControlOp::SetParams, info.dev_id, 0, params.bytes_mut()).map(drop)
        } else {
            let missing: Vec<_> = Features(flags.0 & !info.flags).names().collect();
            Err(io::Error::other(format!("the driver has no {}", missing.join(", "))))
        };
        if let Err(e) = set {
            let _ = device.delete();
            return Err(e);
        }
        Ok(device)
    }

    /// Take over a device whose server is gone: the process `last`. Fails with `EBUSY`
    /// if it is still there after `patience`, or if there is another one.
    pub fn recover(id: u32, last: i32, patience: Duration) -> io::Result<Device> {
        let end = Instant::now() + patience;
        let is_served = || control::info(id).is_ok_and(|info| info.is_live() && info.ublksrv_pid != last);
        loop {
            match control::execute(ControlOp::StartRecovery, id, 0, &mut []) {
                Ok(_) => break,
                Err(e)
                    if e.raw_os_error() == Some(Errno::EBUSY.get())
                        && Instant::now() < end
                        // Somebody else was quicker.
                        && !is_served() =>
                {
                    thread::sleep(Duration::from_millis(50));
                }
                Err(e) => return Err(e),
            }
        }
        let info = control::info(id)?;
        let has = |mode: &Mode| Features(info.flags).has(feature(*mode));
        let mode =
            Mode::ALL.into_iter().find(has).ok_or_else(|| io::Error::other("not made by this program"))?;
        Ok(Device { info, mode, recovers: true })
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.info.dev_id
    }

    /// How its data are moved.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Is a command about many requests?
    pub fn is_batched(&self) -> bool {
        Features(self.info.flags).has(Features::BATCH_IO)
    }

    /// Was it made to be there for another server when this one is gone?
    pub fn survives(&self) -> bool {
        self.info.survives()
    }

    /// Delete it, and wait until it is gone.
    pub fn delete(&self) -> io::Result<()> {
        control::delete(self.id())
    }

    /// Serve it until it is stopped. `ready` is called when the disk is there.
    pub fn serve<T: Target>(&self, target: Arc<T>, ready: impl FnOnce(&Device)) -> io::Result<()> {
        // What it was made of may be less now.
        let geometry = target.geometry();
        few_enough(self.info.nr_hw_queues, &geometry)?;
        if self.info.max_io_buf_bytes > geometry.max_io {
            return Err(invalid(format!(
                "requests can not have more than {} bytes any more",
                geometry.max_io
            )));
        }
        if self.recovers {
            keeps(&geometry, &control::params(self.id())?)?;
        }
        target.prepare(self.info.nr_hw_queues)?;
        let path = format!("/dev/ublkc{}", self.id());
        let char_device = Arc::new(open_when_there(&path)?);
        let (tell, events) = mpsc::channel();
        let mut threads = Vec::new();
        for q_id in 0..self.info.nr_hw_queues {
            let plan = queue::Plan {
                device: char_device.clone(),
                q_id,
                depth: self.info.queue_depth,
                mode: self.mode,
                max_io: self.info.max_io_buf_bytes,
                batch: self.is_batched(),
            };
            let (tell, target, id) = (tell.clone(), target.clone(), self.id());
            let thread = thread::Builder::new().name(format!("queue {q_id}"));
            threads.push(thread.spawn(move || {
                pin_to_queue(id, q_id);
                let result = told(|| queue::run(plan, &*target, || drop(tell.send(Event::Ready))));
                // The last one may have something to put in order, for which the process has to wait.
                drop(target);
                let _ = tell.send(Event::Ended(q_id, result));
            })?);
        }
        drop(char_device);
        let mut ready = Some(ready);
        let (mut starting, mut left) = (threads.len(), threads.len());
        let mut failed = None;
        while left > 0 {
            let Ok(event) = events.recv() else { break };
            match event {
                Event::Ready => {
                    starting -= 1;
                    if starting == 0 {
                        self.start(tell.clone())?;
                    }
                }
                Event::Started(Ok(())) => {
                    if let Some(ready) = ready.take() {
                        ready(self);
                    }
                }
                Event::Ended(_, Ok(())) => left -= 1,
                // The others wait for requests that do not come.
                Event::Started(Err(e)) => return Err(e),
                Event::Ended(q_id, Err(e)) => {
                    failed = Some(io::Error::new(e.kind(), format!("queue {q_id}: {e}")));
                    left -= 1;
                    if self.waits_for_next(ready.is_none()) {
                        break;
                    }
                    let _ = control::stop(self.id());
                    if starting > 0 {
                        break;
                    }
                }
            }
        }
        match failed {
            Some(e) => Err(e),
            None if ready.is_some() => Err(io::Error::other("it was stopped before it was there")),
            None => Ok(()),
        }
    }

    /// Something has failed in this server: do requests wait for the next one, which
    /// they do with the end of this process? Somebody may use the device, or wait for
    /// it, who was promised that.
    fn waits_for_next(&self, was_there: bool) -> bool {
        self.survives() && (self.recovers || was_there)
    }

    /// The driver waits until all requests are fetched, which may be never.
    fn start(&self, tell: mpsc::Sender<Event>) -> io::Result<()> {
        let op = if self.recovers { ControlOp::EndRecovery } else { ControlOp::StartDev };
        let id = self.id();
        thread::Builder::new().name("start".into()).spawn(move || {
            let pid = std::process::id().into();
            let _ = tell.send(Event::Started(control::execute(op, id, pid, &mut []).map(drop)));
        })?;
        Ok(())
    }
}

/// Whatever becomes of a queue, its end is told.
fn told(queue: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    panic::catch_unwind(AssertUnwindSafe(queue)).unwrap_or_else(|_| Err(io::Error::other("a panic")))
}

/// How much data a request has at most: less where each has memory of its own, that
/// has to be there all the time.
fn max_io(mode: Mode, wanted: u32) -> u32 {
    if mode == Mode::Copy { wanted.min(128 << 10) } else { wanted }
}

/// The node of a device that an ordinary user has made is theirs when udev has seen it.
fn wait_for_node(id: u32) -> io::Result<()> {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        match control::info(id) {
            Err(e)
                if [Errno::ENOENT, Errno::EACCES, Errno::EPERM].contains(&Errno::from(&e))
                    && Instant::now() < end =>
            {
                thread::sleep(Duration::from_millis(20));
            }
            // Not even deleting it is possible then.
            Err(e) => {
                return Err(io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    format!(
                        "/dev/ublkc{id} does not become yours, which udev rules have to do ({e}): \
                         only root can delete device {id}"
                    ),
                ));
            }
            Ok(_) => return Ok(()),
        }
    }
}

/// udev may be slow to make a node, and the last server slow to go.
fn open_when_there(path: &str) -> io::Result<File> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match File::options().read(true).write(true).open(path) {
            Err(e) if [Errno::ENOENT, Errno::EBUSY].contains(&Errno::from(&e)) && Instant::now() < end => {
                thread::sleep(Duration::from_millis(20));
            }
            result => return result,
        }
    }
}

/// Where its requests come from; that it can not be is no reason not to serve.
fn pin_to_queue(id: u32, q_id: u16) {
    let mut cpus: CpuSet = [0; 128];
    let cpus_of = control::execute(ControlOp::GetQueueAffinity, id, q_id.into(), &mut cpus);
    if cpus_of.is_ok() && cpus.iter().any(|byte| *byte != 0) {
        let _ = pin_thread(&cpus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        let good = Geometry { size: 8192, block: 4096, ..Geometry::default() };
        let set = params(&good, 1 << 20).unwrap();
        assert_eq!((set.dev_sectors, set.logical_bs_shift, set.max_sectors), (16, 12, 2048));
        assert_eq!((set.types & uapi::PARAM_DISCARD, set.attrs, set.dma_alignment), (0, 0, 511));
        let discards = Geometry { discard: 4096, cached: true, ..good };
        let set = params(&discards, 1 << 20).unwrap();
        assert_eq!((set.discard_granularity, set.max_discard_segments), (4096, 1));
        assert_eq!(set.max_write_zeroes_sectors, 0);
        let zeroes = Geometry { write_zeroes: true, ..good };
        let zeroes = params(&zeroes, 1 << 20).unwrap();
        assert_eq!((zeroes.discard_granularity, zeroes.max_discard_sectors), (4096, 0));
        // Lengths in bytes are 32 bits wide.
        assert!(set.max_discard_sectors.checked_mul(512).is_some());
        assert_eq!(set.attrs, uapi::ATTR_VOLATILE_CACHE | uapi::ATTR_FUA);
        for wrong in [
            Geometry { size: 0, ..good },
            Geometry { size: 4096 + 512, ..good },
            Geometry { block: 256, ..good },
            Geometry { block: 1536, size: 1536, ..good },
        ] {
            assert_eq!(params(&wrong, 1 << 20).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{wrong:?}");
        }
    }

    #[test]
    fn what_was_promised_is_kept() {
        let was =
            Geometry { size: 8192, cached: true, discard: 4096, write_zeroes: true, ..Geometry::default() };
        let keeps = |now: Geometry, was: Geometry| {
            keeps(&now, &params(&was, 1 << 20).unwrap()).map_err(|e| e.to_string())
        };
        assert_eq!(keeps(was, was), Ok(()));
        // More is no harm, and what is never cached need not be flushed.
        assert_eq!(keeps(was, Geometry { discard: 0, write_zeroes: false, block: 4096, ..was }), Ok(()));
        assert_eq!(keeps(Geometry { cached: false, ..was }, was), Ok(()));
        let kept = Geometry { read_only: true, cached: false, discard: 0, write_zeroes: false, ..was };
        assert_eq!((keeps(kept, kept), keeps(was, kept)), (Ok(()), Ok(())));
        for (now, was, why) in [
            (Geometry { read_only: true, ..was }, was, "read-only now"),
            (was, Geometry { cached: false, ..was }, "has to be flushed now"),
            (Geometry { block: 4096, ..was }, was, "blocks of 512 bytes, but what it was made of has 4096"),
            (Geometry { discard: 0, ..was }, was, "has discard"),
            (Geometry { write_zeroes: false, ..was }, was, "has write zeroes"),
        ] {
            let said = keeps(now, was).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn who_waits_for_the_next_server() {
        let device = |recovery: Recovery, recovers| Device {
            info: DevInfo { flags: recovery.features().0, ..DevInfo::default() },
            mode: Mode::Copy,
            recovers,
        };
        for recovery in [Recovery::Wait, Recovery::Reissue, Recovery::Fail] {
            // Not before anybody knows of it.
            assert!(!device(recovery, false).waits_for_next(false));
            assert!(device(recovery, false).waits_for_next(true));
            assert!(device(recovery, true).waits_for_next(false));
        }
        assert!(!device(Recovery::None, false).waits_for_next(true));
    }

    #[test]
    fn a_panic_is_told() {
        assert_eq!(told(|| panic!("on purpose")).unwrap_err().to_string(), "a panic");
        assert!(told(|| Ok(())).is_ok());
    }

    #[test]
    fn copies_have_little_memory() {
        assert_eq!(max_io(Mode::Copy, 1 << 20), 128 << 10);
        assert_eq!(max_io(Mode::Fused, 1 << 20), 1 << 20);
    }

    #[test]
    fn ordinary_users() {
        let once = Geometry { moves_once: true, ..Geometry::default() };
        let all = Features(u64::MAX);
        let say = |wanted, offered, geometry: &Geometry| {
            choose_unprivileged(wanted, offered, geometry).map_err(|e| e.to_string())
        };
        let no_kernel = Features(!Features::FUSED_CMD.0);
        assert!(say(None, no_kernel, &once).unwrap_err().contains("no fused commands"));
        if has_fused_commands() {
            assert_eq!(say(None, all, &once), Ok(Mode::Fused));
            assert!(say(Some(Mode::Copy), all, &once).unwrap_err().contains("only mode fused"));
            assert!(say(None, all, &Geometry::default()).unwrap_err().contains("not for ordinary users"));
        }
    }

    #[test]
    fn modes() {
        let offered = Features::USER_COPY | Features::AUTO_BUF_REG;
        let names = |mode, offered| choose(mode, offered).map_err(|e| e.to_string());
        assert_eq!(names(None, offered), Ok(Mode::Auto));
        assert_eq!(names(Some(Mode::Copy), offered), Ok(Mode::Copy));
        assert_eq!(names(Some(Mode::Fused), offered), Err("the kernel has no mode fused".into()));
        assert_eq!(names(None, Features::default()), Err("the ublk driver is too old".into()));
        // The driver alone is not enough.
        let all = offered | Features::FUSED_CMD;
        assert_eq!(names(None, all), Ok(if has_fused_commands() { Mode::Fused } else { Mode::Auto }));
        for mode in Mode::ALL {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
    }
}
