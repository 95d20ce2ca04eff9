// SPDX-License-Identifier: GPL-2.0

//! Servers: of new devices, and of those that have lost theirs.

use crate::{
    Failure,
    asked::Asked,
    claim::{Claim, PATIENCE},
    list::print,
    manage,
    notify::tell_systemd,
    slow::slow,
    spec::{Number, Spec, Use},
    state,
};
use std::{
    env,
    fs::{self, File},
    io::{self, BufRead, BufReader, Write},
    process::{self, Command, Stdio},
    sync::{Arc, OnceLock},
    thread,
    time::{Duration, Instant},
};
use ublk_server::{Device, Errno, Geometry, Level, Options, Target, control, log, log_at, log_in_background};
use ublk_sys::{Signals, is_root, lock_memory, new_session, on_io_path, terminate, uapi::DevInfo};

/// Tells a server that somebody waits for its first line, and then goes away.
const BACKGROUND: &str = "FUBLK_BACKGROUND";

/// The driver has no larger numbers.
const MOST_DEVICES: u32 = 1 << 20;

/// How large its log becomes.
const LOG_SIZE: u64 = 1 << 20;

/// Does somebody wait for this server's first line?
pub(crate) fn is_in_background() -> bool {
    env::var_os(BACKGROUND).is_some()
}

/// Run this command again, in the background; wait until its device is there.
pub(crate) fn in_background() -> Result<(), Failure> {
    let log = state::new_log()?;
    let result = start_in_background(&File::create(&log)?);
    match result {
        Ok(Ok(device)) => {
            // The device is there, wherever its log is.
            if let Some(id) = device.strip_prefix("/dev/ublkb").and_then(|id| id.parse().ok()) {
                let _ = state::path(id, "log").and_then(|to| fs::rename(&log, to));
            }
            print(device + "\n")
        }
        // It has said why.
        Ok(Err(code)) => {
            let said = fs::read(&log)?;
            fs::remove_file(&log)?;
            io::stderr().write_all(&said)?;
            process::exit(code)
        }
        Err(e) => {
            let _ = fs::remove_file(&log);
            Err(e.into())
        }
    }
}

/// Its first line, or how it has ended.
fn start_in_background(log: &File) -> io::Result<Result<String, i32>> {
    let mut child = Command::new(env::current_exe()?)
        .args(env::args_os().skip(1))
        .env(BACKGROUND, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log.try_clone()?)
        .spawn()?;
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        BufReader::new(output).read_line(&mut line)?;
    }
    match line.strip_suffix('\n') {
        Some(device) => Ok(Ok(device.to_owned())),
        None => Ok(Err(child.wait()?.code().unwrap_or(1).max(1))),
    }
}

/// What a server needs of its process, before it has threads.
fn prepare() -> Result<Asked, Failure> {
    if is_in_background() {
        new_session()?;
    }
    let asked = Asked::listen(Signals::block()?)?;
    // The file of one in the background is ours.
    log_in_background(is_in_background().then_some(LOG_SIZE))?;
    // Without these it works as well, until memory is short.
    if let Err(e) = lock_memory() {
        log(format_args!("fublk: warning: memory is not locked: {e}"));
    }
    if let Err(e) = on_io_path() {
        // Only root can, and whoever else serves a device may have to wait.
        let level = if is_root() { Level::Warning } else { Level::Info };
        log_at(level, format_args!("fublk: warning: allocations may wait for the device itself: {e}"));
    }
    Ok(asked)
}

/// Serve a new device until it ends.
pub(crate) fn add(options: &Options, take_over: bool, degraded: bool, mut spec: Spec) -> Result<(), Failure> {
    spec.make_absolute()?;
    let served = |id| if take_over { has_server(id) } else { is_there(id) };
    // From the first look on: what another process is just making must not seem to be dead.
    let claim = options.id.map(|id| Claim::get(id, || served(id))).transpose()?;
    if let Some((id, claim)) = options.id.zip(claim.as_ref()).filter(|_| take_over)
        && let Some(result) = go_on(id, &spec, claim)
    {
        return result;
    }
    let asked = prepare()?;
    let number = Number::default();
    spec.open(&number, degraded, Adding { options, spec: &spec, asked, number: number.clone(), claim })?
}

fn has_server(id: u32) -> Failure {
    Failure::in_use(format!("device {id} has a server"))
}

fn is_there(id: u32) -> Failure {
    Failure::in_use(format!("there is a device {id} already: fublk del {id}, or --take-over"))
}

/// A device may be there already, of a server that died. `None`: it is not.
fn go_on(id: u32, spec: &Spec, claim: &Claim) -> Option<Result<(), Failure>> {
    let info = control::info(id).ok()?;
    if manage::lives(info.ublksrv_pid) && info.is_live() {
        return Some(Err(has_server(id)));
    }
    if info.is_live() || info.is_without_server() {
        return Some(match state::get(id) {
            Ok(Some(kept)) if kept.is_part_of(spec) => recover_claimed(id, false, claim),
            Ok(_) => Err(Failure::in_use(format!("device {id} is there already, and another one"))),
            Err(failure) => Err(failure),
        });
    }
    if is_root() && control::is_unprivileged(id) {
        return Some(Err(Failure::in_use(format!("device {id} is that of an ordinary user"))));
    }
    // Nothing but the number is left.
    manage::delete(vec![id]).err().map(Err)
}

struct Adding<'a> {
    options: &'a Options,
    spec: &'a Spec,
    asked: Asked,
    number: Number,
    /// Of a device whose number was asked for.
    claim: Option<Claim>,
}

impl Use for Adding<'_> {
    type Output = Result<(), Failure>;

    fn target<T: Target>(mut self, target: T) -> Result<(), Failure> {
        let mut claim = self.claim.take();
        let device = self.asked.device(|| {
            let device = match &claim {
                Some(_) => Device::add(self.options, &target.geometry()),
                None => first_free(self.options, &target.geometry()).map(|(device, its)| {
                    claim = Some(its);
                    device
                }),
            };
            let device = device.map_err(|e| self.refused(&e))?;
            Ok::<_, Failure>((device.id(), device))
        })?;
        // It is new.
        let _ = self.number.set(device.id());
        if let Err(e) = when_ours(device.id(), || state::keep(device.id(), self.spec)) {
            let _ = device.delete();
            return Err(e.into());
        }
        serve(&device, target, true, &self.asked)
    }
}

/// A device with the first number that nobody has. The driver would give it one that somebody else
/// may already have claimed, who would take it for dead.
fn first_free(options: &Options, geometry: &Geometry) -> io::Result<(Device, Claim)> {
    for id in 0..MOST_DEVICES {
        // Most of those that are there are seen so.
        let claim = if state::instance(id).is_ok() { None } else { Claim::attempt(id)? };
        let Some(claim) = claim else { continue };
        match Device::add(&Options { id: Some(id), ..*options }, geometry) {
            Err(e) if e.raw_os_error() == Some(Errno::EEXIST.get()) => {}
            device => return Ok((device?, claim)),
        }
    }
    Err(io::Error::other("there is no number left"))
}

impl Adding<'_> {
    fn refused(&self, error: &io::Error) -> Failure {
        match (self.options.id, error.raw_os_error().map(|_| Errno::from(error))) {
            (Some(id), Some(Errno::EEXIST)) => is_there(id),
            (_, Some(Errno::EPERM | Errno::EACCES)) => {
                Failure::denied("the driver does not let you make a device: be root")
            }
            _ => error.into(),
        }
    }
}

/// Serve a device whose server is gone until it ends. By `force`, also if its files are others.
pub(crate) fn recover(id: u32, force: bool) -> Result<(), Failure> {
    control::info(id).map_err(|e| Failure::of_device(id, &e))?;
    recover_claimed(id, force, &Claim::get(id, || has_server(id))?)
}

fn recover_claimed(id: u32, force: bool, _: &Claim) -> Result<(), Failure> {
    let no_device = |e| Failure::of_device(id, &e);
    let info = control::info(id).map_err(no_device)?;
    if info.is_live() && manage::lives(info.ublksrv_pid) {
        return Err(has_server(id));
    }
    let spec = state::get(id)?;
    let spec = spec.ok_or_else(|| Failure::new(format!("device {id} was not made by fublk")))?;
    if !force {
        state::same_files(id)?;
    }
    let asked = prepare()?;
    let what = format!("waiting for the last server of device {id} to be gone");
    let device =
        slow(&what, || Device::recover(id, info.ublksrv_pid, PATIENCE)).map_err(|e| match e.kind() {
            io::ErrorKind::ResourceBusy => has_server(id),
            io::ErrorKind::InvalidInput => {
                Failure::new(format!("device {id} can not be recovered: its server had to live"))
            }
            _ => no_device(e),
        })?;
    // The kernel may not be done with closing the files of the last server.
    let end = Instant::now() + PATIENCE;
    let mut recovering = Some(Recovering { device, asked, spec: &spec, force });
    loop {
        match spec.open(&Number::from(OnceLock::from(id)), true, &mut recovering) {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy && Instant::now() < end => {
                thread::sleep(Duration::from_millis(50));
            }
            result => return result?,
        }
    }
}

struct Recovering<'a> {
    device: Device,
    asked: Asked,
    spec: &'a Spec,
    force: bool,
}

impl Use for &mut Option<Recovering<'_>> {
    type Output = Result<(), Failure>;

    fn target<T: Target>(self, target: T) -> Result<(), Failure> {
        let Some(Recovering { device, asked, spec, force }) = self.take() else {
            unreachable!("opened once")
        };
        let size = control::params(device.id())?.dev_sectors * 512;
        if target.geometry().size < size && spec.has_files() {
            let has = target.geometry().size;
            return Err(Failure::new(format!("the device has {size} bytes, but what it was made of {has}")));
        }
        // They may have been replaced before they were opened.
        if force {
            state::keep(device.id(), spec)?;
        } else {
            state::same_files(device.id())?;
        }
        serve(&device, target, false, &asked)
    }
}

/// A node of ours may be another one's before udev has seen it.
fn when_ours<R>(id: u32, work: impl Fn() -> io::Result<R>) -> io::Result<R> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match work() {
            Err(e) if e.kind() == io::ErrorKind::NotFound && Instant::now() < end => {
                thread::sleep(Duration::from_millis(20));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(io::Error::other(format!("/dev/ublkc{id} does not come: is there udev?")));
            }
            result => return result,
        }
    }
}

fn serve<T: Target>(device: &Device, target: T, is_new: bool, asked: &Asked) -> Result<(), Failure> {
    let id = device.id();
    let instance = state::instance(id)?;
    env::set_current_dir("/")?;
    let result = device.serve(Arc::new(target), |device| {
        if let Err(e) = asked.has_disk(device.id()) {
            log(format_args!("fublk: device {id} is not stopped, as was asked for: {e}"));
        }
        // Whoever waits may be gone already: nobody knows of a new device then, as after Ctrl-C. One
        // that was there before goes on.
        if let Err(e) = writeln!(io::stdout(), "/dev/ublkb{}", device.id())
            && is_new
            && is_in_background()
        {
            log(format_args!("fublk: nobody waits for /dev/ublkb{} any more: {e}", device.id()));
            let _ = terminate(process::id());
        }
        tell_systemd(&format!("READY=1\nSTATUS=/dev/ublkb{}", device.id()));
        log_at(
            Level::Info,
            format_args!("fublk: /dev/ublkb{} is there, mode {}", device.id(), device.mode()),
        );
    });
    // Somebody may have sent us away to have another server.
    if result.is_ok() && control::info(id).is_ok_and(|info| info.is_without_server()) {
        return Ok(());
    }
    // What was to survive its server waits for the next one. If it has another one
    // already, it is not ours.
    if result.is_err()
        && device.survives()
        && control::info(id).is_ok_and(|info| info.is_live() || info.is_without_server())
    {
        return Ok(result?);
    }
    // What was deleted by somebody else may be another device by now.
    state::forget(id, Some(instance));
    let is_ours = |info: DevInfo| !info.is_live() || info.ublksrv_pid == process::id().cast_signed();
    if state::instance(id).is_ok_and(|now| now == instance) && control::info(id).is_ok_and(is_ours) {
        let _ = device.delete();
    }
    log_at(Level::Info, format_args!("fublk: device {id} is gone"));
    Ok(result?)
}
