// SPDX-License-Identifier: GPL-2.0

//! Several devices of a file: each has a server, which is a process of its own, so
//! that none ends with another.

use crate::{
    Failure,
    config::{self, Entry},
    list::print,
    manage,
    notify::tell_systemd,
    slow::slow,
};
use std::{
    env,
    io::{self, BufRead, BufReader},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};
use ublk_server::{Level, log, log_at};
use ublk_sys::{Signals, lock_memory, on_io_path, terminate};

/// How often a server may die in a row, each time within [`SOON`].
const TRIES: u32 = 5;
const SOON: Duration = Duration::from_secs(60);

/// A server of ours does this.
fn server(entry: &Entry, more: &[&str]) -> io::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    // It is us whom systemd waits for.
    command.arg("add").args(more).args(&entry.args).env_remove("NOTIFY_SOCKET").stdin(Stdio::null());
    Ok(command)
}

/// Is the file right?
pub(crate) fn check(path: &Path) -> Result<(), Failure> {
    let entries = config::read(path)?;
    let lines = entries.iter().map(|entry| format!("/dev/ublkb{}\n", entry.id));
    print(lines.collect::<String>())
}

/// Make all devices of a file, or none of them; their servers go to the background.
pub(crate) fn in_background(path: &Path) -> Result<(), Failure> {
    let entries = config::read(path)?;
    let mut made: Vec<u32> = Vec::new();
    for entry in &entries {
        let what = format!("waiting for device {}", entry.id);
        let status = slow(&what, || server(entry, &[])?.status())?;
        if !status.success() {
            // The last one first: it may be made of another.
            made.reverse();
            let _ = manage::delete(made);
            return Err(Failure::of_child(
                format!("device {}, and so none of {}", entry.id, path.display()),
                status.code(),
            ));
        }
        made.push(entry.id);
    }
    Ok(())
}

/// What happens to servers.
enum Event {
    /// Its device is there.
    Ready(usize),
    Ended(usize, io::Result<ExitStatus>),
    Signal,
}

/// A server that is there. Its number is that of a process of ours as long as the lock
/// is held.
type Running = Arc<Mutex<Option<Child>>>;

fn locked(running: &Running) -> MutexGuard<'_, Option<Child>> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One of the devices.
struct Served {
    entry: Entry,
    running: Running,
    since: Instant,
    deaths: u32,
}

impl Served {
    fn start(&mut self, number: usize, tell: &mpsc::Sender<Event>) -> io::Result<()> {
        self.since = Instant::now();
        let mut child = server(&self.entry, &["--foreground"])?.stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take();
        *locked(&self.running) = Some(child);
        let (running, tell) = (self.running.clone(), tell.clone());
        thread::Builder::new().name(format!("device {}", self.entry.id)).spawn(move || {
            let mut line = String::new();
            let got = output.map(|output| BufReader::new(output).read_line(&mut line));
            if matches!(got, Some(Ok(1..))) {
                let _ = tell.send(Event::Ready(number));
            }
            let _ = tell.send(Event::Ended(number, reap(&running)));
        })?;
        Ok(())
    }

    fn end(&self) {
        if let Some(child) = &*locked(&self.running)
            && let Err(e) = terminate(child.id())
        {
            log(format_args!("fublk: the server of device {} can not be ended: {e}", self.entry.id));
        }
    }

    /// Its server has died: is there to be another one?
    fn tries_again(&mut self) -> bool {
        self.deaths = if self.since.elapsed() > SOON { 1 } else { self.deaths + 1 };
        self.entry.survives && self.deaths <= TRIES
    }
}

/// Wait for the end of a process.
fn reap(running: &Running) -> io::Result<ExitStatus> {
    loop {
        {
            let mut child = locked(running);
            let status = match child.as_mut() {
                Some(child) => child.try_wait()?,
                None => return Err(io::Error::other("it was never there")),
            };
            if let Some(status) = status {
                *child = None;
                return Ok(status);
            }
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// Serve all devices of a file, until all of them have ended.
pub(crate) fn in_foreground(path: &Path) -> Result<(), Failure> {
    let entries = config::read(path)?;
    let signals = Signals::block()?;
    // Each server says so itself if that is not possible.
    let _ = (lock_memory(), on_io_path());
    let (tell, events) = mpsc::channel();
    let told = tell.clone();
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || while signals.wait().is_ok() && told.send(Event::Signal).is_ok() {})?;
    let served = entries.into_iter().map(|entry| Served {
        entry,
        running: Running::default(),
        since: Instant::now(),
        deaths: 0,
    });
    Supervisor::new(served.collect(), tell).run(&events)
}

struct Supervisor {
    served: Vec<Served>,
    tell: mpsc::Sender<Event>,
    /// Whose device was never there yet. They start one after the other: one may be
    /// made of another.
    next: usize,
    left: usize,
    ending: bool,
    failed: Option<Failure>,
}

impl Supervisor {
    fn new(served: Vec<Served>, tell: mpsc::Sender<Event>) -> Supervisor {
        Supervisor { served, tell, next: 0, left: 0, ending: false, failed: None }
    }

    fn start(&mut self, number: usize) {
        match self.served[number].start(number, &self.tell) {
            Ok(()) => self.left += 1,
            Err(e) => self.fail(Failure::new(format!("device {}: {e}", self.served[number].entry.id))),
        }
    }

    /// All of them end.
    fn end(&mut self) {
        if !self.ending {
            tell_systemd("STOPPING=1");
        }
        self.ending = true;
        for served in &self.served {
            served.end();
        }
    }

    /// The first failure is told.
    fn fail(&mut self, failure: Failure) {
        log_at(Level::Debug, format_args!("fublk: {failure}"));
        let _ = self.failed.get_or_insert(failure);
    }

    fn run(mut self, events: &mpsc::Receiver<Event>) -> Result<(), Failure> {
        self.start(0);
        while self.left > 0 {
            // We have a sender ourselves.
            let Ok(event) = events.recv() else { break };
            match event {
                Event::Signal => self.end(),
                Event::Ready(number) if number == self.next => self.is_there(number)?,
                Event::Ready(number) => {
                    let id = self.served[number].entry.id;
                    log_at(Level::Warning, format_args!("fublk: device {id} has a new server"));
                }
                Event::Ended(number, status) => {
                    self.left -= 1;
                    self.ended(number, status);
                }
            }
        }
        self.failed.map_or(Ok(()), Err)
    }

    fn is_there(&mut self, number: usize) -> Result<(), Failure> {
        print(format_args!("/dev/ublkb{}\n", self.served[number].entry.id))?;
        self.next += 1;
        if self.ending {
            // Its server may have missed that.
            self.served[number].end();
        } else if self.next < self.served.len() {
            self.start(self.next);
        } else {
            tell_systemd(&format!("READY=1\nSTATUS={} devices", self.served.len()));
        }
        Ok(())
    }

    fn ended(&mut self, number: usize, status: io::Result<ExitStatus>) {
        let id = self.served[number].entry.id;
        let code = match status {
            // Somebody has ended the device.
            Ok(status) if status.success() => return,
            Ok(status) => status.code(),
            Err(_) => None,
        };
        if self.ending {
            self.fail(Failure::of_child(format!("the server of device {id}"), code));
        } else if number >= self.next {
            // It was never there: all or none.
            self.fail(Failure::of_child(format!("device {id}, and so none of the file"), code));
            self.end();
        } else if self.served[number].tries_again() {
            log(format_args!("fublk: the server of device {id} has died: there will be another one"));
            thread::sleep(Duration::from_millis(200));
            self.start(number);
        } else {
            let failure = Failure::of_child(format!("the server of device {id}"), code);
            log(format_args!("fublk: {failure}"));
            self.fail(failure);
        }
    }
}
