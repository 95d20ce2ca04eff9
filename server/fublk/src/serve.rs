// SPDX-License-Identifier: GPL-2.0

//! Servers: of new devices, and of those that have lost theirs.

use crate::{
    Failure, manage,
    spec::{Number, Spec, Use},
    state,
};
use std::{
    env,
    fs::{self, File},
    io::{self, BufRead, BufReader, Write},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    process::{self, Command, Stdio},
    sync::{Arc, OnceLock},
    thread,
    time::{Duration, Instant},
};
use ublk_server::{Device, Options, Target, control, log};
use ublk_sys::{Signals, lock_memory, new_session, on_io_path};

/// Tells a server that somebody waits for its first line, and then goes away.
const BACKGROUND: &str = "FUBLK_BACKGROUND";

/// How long the last server of a device may take to be gone.
const PATIENCE: Duration = Duration::from_secs(30);

/// Run this command again, in the background; wait until its device is there.
pub(crate) fn in_background() -> Result<(), Failure> {
    let log = state::new_log()?;
    let result = start_in_background(&File::create(&log)?);
    match result {
        Ok(Ok(device)) => {
            if let Some(id) = device.strip_prefix("/dev/ublkb").and_then(|id| id.parse().ok()) {
                fs::rename(&log, state::path(id, "log"))?;
            }
            println!("{device}");
            Ok(())
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
    let mut verbs: Vec<_> = env::args_os().skip(1).collect();
    // After the verb.
    verbs.insert(1, "--foreground".into());
    let mut child = Command::new(env::current_exe()?)
        .args(verbs)
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
fn prepare() -> Result<Signals, Failure> {
    if env::var_os(BACKGROUND).is_some() {
        new_session()?;
    }
    let signals = Signals::block()?;
    // Without these it works as well, until memory is short.
    if let Err(e) = lock_memory() {
        log(format_args!("fublk: warning: memory is not locked: {e}"));
    }
    if let Err(e) = on_io_path() {
        log(format_args!("fublk: warning: allocations may wait for the device itself: {e}"));
    }
    Ok(signals)
}

/// Serve a new device until it ends.
pub(crate) fn add(options: &Options, mut spec: Spec) -> Result<(), Failure> {
    spec.make_absolute()?;
    let signals = prepare()?;
    let number = Number::default();
    spec.open(&number, Adding { options, spec: &spec, signals, number: number.clone() })?
}

struct Adding<'a> {
    options: &'a Options,
    spec: &'a Spec,
    signals: Signals,
    number: Number,
}

impl Use for Adding<'_> {
    type Output = Result<(), Failure>;

    fn target<T: Target>(self, target: T) -> Result<(), Failure> {
        let device = Device::add(self.options, &target.geometry()).map_err(|e| match self.options.id {
            Some(id) if e.kind() == io::ErrorKind::AlreadyExists => {
                Failure::new(format!("there is a device {id} already"))
            }
            _ => e.into(),
        })?;
        // It is new.
        let _ = self.number.set(device.id());
        if let Err(e) = state::keep(device.id(), self.spec) {
            let _ = device.delete();
            return Err(e.into());
        }
        serve(&device, target, self.signals)
    }
}

/// Serve a device whose server is gone until it ends.
pub(crate) fn recover(id: u32) -> Result<(), Failure> {
    let no_device = |e| Failure::of_device(id, &e);
    let info = control::info(id).map_err(no_device)?;
    let served = || Failure::new(format!("device {id} has a server"));
    if info.is_live() && manage::lives(info.ublksrv_pid) {
        return Err(served());
    }
    let spec = state::get(id)?;
    let spec = spec.ok_or_else(|| Failure::new(format!("device {id} was not made by fublk")))?;
    let signals = prepare()?;
    let device = Device::recover(id, PATIENCE).map_err(|e| match e.kind() {
        io::ErrorKind::ResourceBusy => served(),
        io::ErrorKind::InvalidInput => {
            Failure::new(format!("device {id} can not be recovered: its server had to live"))
        }
        _ => no_device(e),
    })?;
    // The kernel may not be done with closing the files of the last server.
    let end = Instant::now() + PATIENCE;
    let mut recovering = Some(Recovering { device, signals, has_files: spec.has_files() });
    loop {
        match spec.open(&Number::from(OnceLock::from(id)), &mut recovering) {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy && Instant::now() < end => {
                thread::sleep(Duration::from_millis(50));
            }
            result => return result?,
        }
    }
}

struct Recovering {
    device: Device,
    signals: Signals,
    has_files: bool,
}

impl Use for &mut Option<Recovering> {
    type Output = Result<(), Failure>;

    fn target<T: Target>(self, target: T) -> Result<(), Failure> {
        let Some(Recovering { device, signals, has_files }) = self.take() else {
            unreachable!("opened once")
        };
        let size = control::params(device.id())?.dev_sectors * 512;
        if target.geometry().size < size && has_files {
            let has = target.geometry().size;
            return Err(Failure::new(format!("the device has {size} bytes, but what it was made of {has}")));
        }
        serve(&device, target, signals)
    }
}

fn serve<T: Target>(device: &Device, target: T, signals: Signals) -> Result<(), Failure> {
    let id = device.id();
    thread::Builder::new().name("signals".into()).spawn(move || {
        if signals.wait().is_ok() {
            if let Err(e) = control::stop(id) {
                log(format_args!("fublk: device {id} can not be stopped: {e}"));
            }
            // Who asks twice is in a hurry.
            let _ = signals.wait();
            process::exit(1);
        }
    })?;
    env::set_current_dir("/")?;
    let result = device.serve(Arc::new(target), |device| {
        // Whoever waits may be gone already.
        let _ = writeln!(io::stdout(), "/dev/ublkb{}", device.id());
        let _ = tell_systemd();
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
    let _ = device.delete();
    state::forget(id);
    Ok(result?)
}

/// Tell systemd that the device is there, as sd_notify(3) does.
fn tell_systemd() -> io::Result<()> {
    let Ok(path) = env::var("NOTIFY_SOCKET") else { return Ok(()) };
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&path)?,
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address)?;
    Ok(())
}
