// SPDX-License-Identifier: GPL-2.0

//! Several devices of a file: each has a server, which is a process of its own, so
//! that none ends with another.

use crate::{
    Failure, LEVEL_VARIABLE,
    again::Again,
    before::{Before, waits},
    config::{self, Entry},
    list::print,
    manage,
    notify::tell_systemd,
    slow::slow,
};
use std::{
    env,
    io::{self, BufRead, BufReader},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};
use ublk_server::{Level, log, log_at, log_level};
use ublk_sys::{Signals, lock_memory, on_io_path, terminate};

/// A server of ours does this.
fn server(entry: &Entry, more: &[&str]) -> io::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    // It is us whom systemd waits for.
    command.arg("add").args(more).args(&entry.args).env_remove("NOTIFY_SOCKET").stdin(Stdio::null());
    // -v and -q are about them, too.
    command.env(LEVEL_VARIABLE, log_level().to_string());
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
        let before = Before::of(entry)?;
        if before == Before::Served {
            print(format_args!("/dev/ublkb{}\n", entry.id))?;
            continue;
        }
        let what = format!("waiting for device {}", entry.id);
        let status = slow(&what, || server(entry, &[])?.status())?;
        if !status.success() {
            // The last one first: it may be made of another.
            made.reverse();
            let _ = manage::delete(made);
            return Err(Failure::of_child(
                format!("device {}, and so none of {} that was not there before", entry.id, path.display()),
                status.code(),
            ));
        }
        if !before.was_there() {
            made.push(entry.id);
        }
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
    again: Again,
    /// When there is another server.
    due: Option<Instant>,
    /// What was there before is not ended because another one fails.
    before: Before,
    /// It was served by us.
    was_ready: bool,
    /// The server that is there has been asked to end.
    asked: bool,
}

impl Served {
    fn start(&mut self, number: usize, tell: &mpsc::Sender<Event>) -> io::Result<()> {
        (self.due, self.asked) = (None, false);
        let mut command = server(&self.entry, &["--foreground"])?;
        // Ctrl-C is for us, who know which one ends first.
        let mut child = command.stdout(Stdio::piped()).process_group(0).spawn()?;
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

    fn is_running(&self) -> bool {
        locked(&self.running).is_some()
    }

    /// Asked twice, it ends at once.
    fn end(&mut self) {
        if let Some(child) = &*locked(&self.running) {
            match terminate(child.id()) {
                Ok(()) => self.asked = true,
                Err(e) => {
                    log(format_args!("fublk: the server of device {} can not be ended: {e}", self.entry.id));
                }
            }
        }
    }

    /// Its server has died, or could not start: when is there to be another one?
    fn tries_again(&mut self) -> bool {
        let waits = waits(self.entry.id);
        let pause = self.again.died(Instant::now(), waits);
        self.due = pause.filter(|_| waits || self.entry.survives).map(|pause| Instant::now() + pause);
        self.due.is_some()
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
        again: Again::default(),
        due: None,
        before: Before::Nothing,
        was_ready: false,
        asked: false,
    });
    let mut served: Vec<_> = served.collect();
    for one in &mut served {
        one.before = Before::of(&one.entry)?;
    }
    Supervisor::new(served, tell).run(&events)
}

struct Supervisor {
    served: Vec<Served>,
    tell: mpsc::Sender<Event>,
    /// Whose server was not started yet. They start one after the other: one may be made of
    /// another.
    next: usize,
    left: usize,
    /// There was a signal.
    asked: bool,
    /// All end.
    ending: bool,
    /// One has failed: those that are new end.
    none_new: bool,
    failed: Option<Failure>,
}

impl Supervisor {
    fn new(served: Vec<Served>, tell: mpsc::Sender<Event>) -> Supervisor {
        let (asked, ending, none_new) = (false, false, false);
        Supervisor { served, tell, next: 0, left: 0, asked, ending, none_new, failed: None }
    }

    fn start(&mut self, number: usize) {
        match self.served[number].start(number, &self.tell) {
            Ok(()) => self.left += 1,
            Err(e) => {
                let what = format!("device {}: {e}", self.served[number].entry.id);
                self.has_not_started(number, Failure::new(what));
            }
        }
    }

    /// It was not there yet, and its server is gone.
    fn has_not_started(&mut self, number: usize, failure: Failure) {
        if self.ending {
            return self.fail(failure);
        }
        let is_next = number + 1 == self.next;
        let served = &mut self.served[number];
        if matches!(served.before, Before::Waits | Before::Served) && served.tries_again() {
            log(format_args!("fublk: {failure}: it is tried again"));
        } else {
            self.fail(failure);
            self.end_new();
        }
        if is_next && !self.ending {
            self.start_next();
        }
    }

    /// The next one, or none is left. After a failure only those that were there before.
    fn start_next(&mut self) {
        while let Some(served) = self.served.get(self.next) {
            self.next += 1;
            if !self.none_new || served.before.was_there() {
                return self.start(self.next - 1);
            }
        }
        let there = self.served.iter().filter(|served| served.was_ready).count();
        // Who waits for us has to let us go on.
        match &self.failed {
            None if there == self.served.len() => tell_systemd(&format!("READY=1\nSTATUS={there} devices")),
            None => tell_systemd(&format!("READY=1\nSTATUS={there} devices; others wait for a server")),
            Some(failure) if self.left > 0 || self.due().is_some() => {
                tell_systemd(&format!(
                    "READY=1\nSTATUS={failure}; {there} devices, that were there before, go on"
                ));
            }
            Some(_) => {}
        }
    }

    /// There is a signal: all end. Who asks twice is in a hurry.
    fn signal(&mut self) {
        if std::mem::replace(&mut self.asked, true) {
            self.served.iter_mut().for_each(Served::end);
        } else {
            self.end();
        }
    }

    /// All of them end.
    fn end(&mut self) {
        if std::mem::replace(&mut self.ending, true) {
            return;
        }
        tell_systemd("STOPPING=1");
        for served in self.served.iter_mut().filter(|served| served.due.is_some()) {
            served.due = None;
            let id = served.entry.id;
            let failure =
                Failure::new(format!("device {id} has no server that could end it: fublk recover {id}"));
            let _ = self.failed.get_or_insert(failure);
        }
        self.end_next();
    }

    /// All or none; but those that were there before stay.
    fn end_new(&mut self) {
        self.none_new = true;
        if self.served.iter().any(|served| served.before.was_there()) {
            self.end_next();
        } else {
            self.end();
        }
    }

    /// Of those that are to end, the last one does, and the others when it has ended: it may be made
    /// of them, and write to them until then.
    fn end_next(&mut self) {
        let (all, new) = (self.ending, self.none_new);
        let ends = |served: &&mut Served| served.is_running() && (all || new && !served.before.was_there());
        if let Some(served) = self.served.iter_mut().rfind(ends)
            && !served.asked
        {
            served.end();
        }
    }

    /// The first failure is told.
    fn fail(&mut self, failure: Failure) {
        log_at(Level::Debug, format_args!("fublk: {failure}"));
        let _ = self.failed.get_or_insert(failure);
    }

    /// When is there another server of a device?
    fn due(&self) -> Option<Instant> {
        self.served.iter().filter_map(|served| served.due).min()
    }

    fn start_due(&mut self) {
        let now = Instant::now();
        for number in 0..self.served.len() {
            if self.served[number].due.is_some_and(|due| due <= now) {
                self.start(number);
            }
        }
    }

    fn run(mut self, events: &mpsc::Receiver<Event>) -> Result<(), Failure> {
        self.start_next();
        loop {
            let event = match self.due() {
                Some(due) => events.recv_timeout(due.saturating_duration_since(Instant::now())),
                None if self.left == 0 => break,
                None => events.recv().map_err(Into::into),
            };
            match event {
                Ok(Event::Signal) => self.signal(),
                Ok(Event::Ready(number)) => self.is_there(number),
                Ok(Event::Ended(number, status)) => {
                    self.left -= 1;
                    self.ended(number, status);
                    self.end_next();
                }
                Err(RecvTimeoutError::Timeout) => self.start_due(),
                // We have a sender ourselves.
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.failed.map_or(Ok(()), Err)
    }

    fn is_there(&mut self, number: usize) {
        let served = &mut self.served[number];
        let (id, is_first) = (served.entry.id, !std::mem::replace(&mut served.was_ready, true));
        served.again.is_ready(Instant::now());
        if is_first {
            // Who can not be told is no reason to leave servers alone.
            if let Err(failure) = print(format_args!("/dev/ublkb{id}\n")) {
                log(format_args!("fublk: /dev/ublkb{id} is there, but that can not be told: {failure}"));
            }
        } else {
            log_at(Level::Warning, format_args!("fublk: device {id} has a new server"));
        }
        if self.ending || self.none_new && !served.before.was_there() {
            self.end_next();
        } else if is_first && number + 1 == self.next {
            self.start_next();
        }
    }

    fn ended(&mut self, number: usize, status: io::Result<ExitStatus>) {
        let served = &mut self.served[number];
        let id = served.entry.id;
        let code = match status {
            // Somebody has ended the device.
            Ok(status) if status.success() => return,
            Ok(status) => status.code(),
            Err(_) => None,
        };
        if self.ending {
            self.fail(Failure::of_child(format!("the server of device {id}"), code));
        } else if !served.was_ready {
            let none = if served.before.was_there() {
                ""
            } else {
                ", and so none of the file that was not there before"
            };
            self.has_not_started(number, Failure::of_child(format!("device {id}{none}"), code));
        } else if served.tries_again() {
            log(format_args!("fublk: the server of device {id} has died: there will be another one"));
        } else {
            let failure = Failure::of_child(format!("the server of device {id}"), code);
            log(format_args!("fublk: {failure}"));
            self.fail(failure);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Spec;
    use std::os::unix::process::ExitStatusExt;

    /// A device with a server that does nothing but end when it is asked to.
    fn served(id: u32, before: Before) -> Served {
        let spec = Spec::from_args(&["null".into()]).unwrap();
        let entry = Entry { id, survives: false, spec, args: Vec::new() };
        let child = Command::new("sleep").arg("600").spawn().unwrap();
        let running = Arc::new(Mutex::new(Some(child)));
        Served { entry, running, again: Again::default(), due: None, before, was_ready: true, asked: false }
    }

    fn supervisor(before: [Before; 3]) -> Supervisor {
        let served = (0..).zip(before).map(|(id, before)| served(id, before)).collect();
        Supervisor::new(served, mpsc::channel().0)
    }

    /// Which ones run, when all that were asked to end have ended?
    fn running(supervisor: &Supervisor) -> [bool; 3] {
        let all = supervisor.served.iter().map(|served| {
            if served.asked && served.is_running() {
                assert_eq!(reap(&served.running).unwrap().signal(), Some(15));
            }
            served.is_running()
        });
        all.collect::<Vec<_>>().try_into().unwrap()
    }

    impl Drop for Served {
        fn drop(&mut self) {
            self.end();
            let _ = reap(&self.running);
        }
    }

    #[test]
    fn what_is_made_of_others_ends_first() {
        let mut all = supervisor([Before::Nothing, Before::Served, Before::Nothing]);
        all.signal();
        assert_eq!(running(&all), [true, true, false]);
        all.end_next();
        all.end_next();
        assert_eq!(running(&all), [true, false, false]);
        all.end_next();
        assert_eq!(running(&all), [false; 3]);
    }

    #[test]
    fn servers_tell_as_much_as_we_do() {
        let served = served(3, Before::Nothing);
        for level in [Level::Debug, Level::Error, Level::Warning] {
            ublk_server::set_log_level(level);
            let command = server(&served.entry, &[]).unwrap();
            let told = command.get_envs().find(|(name, _)| *name == "FUBLK_LOG").unwrap().1.unwrap();
            assert_eq!(told.to_str().unwrap().parse(), Ok(level));
        }
    }

    #[test]
    fn who_asks_twice_does_not_wait() {
        let mut all = supervisor([Before::Nothing; 3]);
        all.signal();
        all.signal();
        assert_eq!(running(&all), [false; 3]);
    }

    #[test]
    fn what_was_there_stays_when_new_ones_end() {
        let mut all = supervisor([Before::Nothing, Before::Served, Before::Nothing]);
        all.end_new();
        assert_eq!(running(&all), [true, true, false]);
        all.end_next();
        assert_eq!(running(&all), [false, true, false]);
        all.end_next();
        assert_eq!(running(&all), [false, true, false]);
    }
}
