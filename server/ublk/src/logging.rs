// SPDX-License-Identifier: GPL-2.0

//! Lines for whoever reads the server's log: its standard error, or the journal.
//!
//! Who reads it may be slow, or wait for our own device. So a server has a thread for
//! that, and what it can not take is counted, not waited for.

use std::{
    fmt::{self, Display},
    fs::File,
    io::{self, IsTerminal, Seek, SeekFrom, Write},
    os::fd::AsFd,
    str::FromStr,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering},
        mpsc::{self, SyncSender},
    },
    thread,
    time::{Duration, Instant},
};

/// How much a line matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Level {
    /// Something does not work.
    Error,
    /// Something may not work, now or later.
    Warning,
    /// What happens to a device.
    Info,
    /// For who looks for a fault.
    Debug,
}

impl Level {
    const ALL: [(Level, &str); 4] =
        [(Level::Error, "error"), (Level::Warning, "warn"), (Level::Info, "info"), (Level::Debug, "debug")];

    /// More lines, or fewer.
    pub fn shifted(self, by: i32) -> Level {
        let most = i32::from(Level::Debug as u8);
        let at = (i32::from(self as u8).saturating_add(by)).clamp(0, most);
        usize::try_from(at).ok().and_then(|at| Level::ALL.get(at)).map_or(self, |(level, _)| *level)
    }

    /// As syslog numbers them.
    fn priority(self) -> u8 {
        match self {
            Level::Error => 3,
            Level::Warning => 4,
            Level::Info => 6,
            Level::Debug => 7,
        }
    }
}

impl Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Level::ALL.into_iter().find(|(level, _)| level == self);
        f.write_str(name.map_or("", |(_, name)| name))
    }
}

impl FromStr for Level {
    type Err = String;
    fn from_str(name: &str) -> Result<Level, String> {
        let found = Level::ALL.into_iter().find(|(_, known)| *known == name);
        found.map(|(level, _)| level).ok_or_else(|| "one of error, warn, info, debug".to_owned())
    }
}

static LEVEL: AtomicU8 = AtomicU8::new(Level::Warning as u8);
static JOURNAL: AtomicBool = AtomicBool::new(false);
static QUEUE: OnceLock<SyncSender<Message>> = OnceLock::new();
static LOST: AtomicU32 = AtomicU32::new(0);

enum Message {
    Line(String),
    /// All that came before is written.
    Flush(SyncSender<()>),
}

/// Nothing below this is written. Is standard error the journal?
pub fn set_log_level(level: Level) {
    LEVEL.store(level as u8, Ordering::Relaxed);
    let journal = std::env::var_os("JOURNAL_STREAM").is_some() && !io::stderr().is_terminal();
    JOURNAL.store(journal, Ordering::Relaxed);
}

/// What was set.
pub fn log_level() -> Level {
    Level::Error.shifted(LEVEL.load(Ordering::Relaxed).into())
}

/// Are lines of this level written?
pub fn is_logged(level: Level) -> bool {
    // Relaxed: it is set once, at the start.
    level as u8 <= LEVEL.load(Ordering::Relaxed)
}

/// A warning.
pub fn log(what: impl Display) {
    log_at(Level::Warning, what);
}

/// A line of this level.
pub fn log_at(level: Level, what: impl Display) {
    if !is_logged(level) {
        return;
    }
    let line = line(JOURNAL.load(Ordering::Relaxed).then_some(level), what);
    match QUEUE.get() {
        None => write(&line),
        Some(queue) => {
            if queue.try_send(Message::Line(line)).is_err() {
                LOST.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

fn line(priority: Option<Level>, what: impl Display) -> String {
    match priority {
        Some(level) => format!("<{}>{what}\n", level.priority()),
        None => format!("{what}\n"),
    }
}

/// Nobody may read it.
fn write(line: &str) {
    let _ = io::stderr().write_all(line.as_bytes());
}

/// A log that is a file of ours begins anew when it has so many bytes.
fn cut(log: &File, most: u64) -> io::Result<bool> {
    let data = log.metadata()?;
    if !data.is_file() || data.len() < most {
        return Ok(false);
    }
    log.set_len(0)?;
    (&*log).seek(SeekFrom::Start(0))?;
    Ok(true)
}

/// From now on, nobody waits for who reads the log. With `most`, it is a file of ours, which does
/// not become much longer.
pub fn log_in_background(most: Option<u64>) -> io::Result<()> {
    if QUEUE.get().is_some() {
        return Ok(());
    }
    let (queue, messages) = mpsc::sync_channel(256);
    let limited =
        most.and_then(|most| Some((File::from(io::stderr().as_fd().try_clone_to_owned().ok()?), most)));
    thread::Builder::new().name("log".into()).spawn(move || {
        for message in messages {
            if let Some((log, most)) = &limited
                && cut(log, *most).is_ok_and(|cut| cut)
            {
                write("older lines were left out\n");
            }
            let lost = LOST.swap(0, Ordering::Relaxed);
            if lost > 0 {
                write(&format!("{lost} lines are missing here\n"));
            }
            match message {
                Message::Line(line) => write(&line),
                Message::Flush(done) => drop(done.try_send(())),
            }
        }
    })?;
    let _ = QUEUE.set(queue);
    Ok(())
}

/// This process ends: wait a moment for the lines that are under way.
pub fn flush_log() {
    let Some(queue) = QUEUE.get() else { return };
    let (tell, done) = mpsc::sync_channel(1);
    if queue.try_send(Message::Flush(tell)).is_ok() {
        let _ = done.recv_timeout(Duration::from_secs(1));
    }
}

/// Lines that there may be many of: so many in a second, or, when that goes on, in a minute. The
/// others are counted.
#[derive(Debug)]
struct Limit {
    begun: Instant,
    since: Instant,
    lines: u32,
}

impl Limit {
    const LINES: u32 = 10;
    const MINUTE: Duration = Duration::from_secs(60);

    fn new(now: Instant) -> Limit {
        Limit { begun: now, since: now, lines: 0 }
    }

    /// May there be one more? With how many there were too many before.
    fn take(&mut self, now: Instant) -> Option<u32> {
        let mut over = 0;
        let goes_on = self.since.duration_since(self.begun) >= Self::MINUTE;
        let period = if goes_on { Self::MINUTE } else { Duration::from_secs(1) };
        let quiet = now.duration_since(self.since);
        if quiet >= period {
            over = self.lines.saturating_sub(Self::LINES);
            (self.since, self.lines) = (now, 0);
            if quiet >= 2 * Self::MINUTE {
                self.begun = now;
            }
        }
        self.lines = self.lines.saturating_add(1);
        (self.lines <= Self::LINES).then_some(over)
    }
}

/// A log of what may happen again and again. Which lines there are too many of is told with the next.
#[derive(Debug, Default)]
pub struct RareLog(Mutex<Option<Limit>>);

impl RareLog {
    /// For a `static`.
    pub const fn new() -> RareLog {
        RareLog(Mutex::new(None))
    }

    /// A warning, unless there are too many.
    pub fn log(&self, what: impl Display) {
        let now = Instant::now();
        let over = {
            let mut limit = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            limit.get_or_insert_with(|| Limit::new(now)).take(now)
        };
        match over {
            Some(0) => log(what),
            Some(more) => log(format_args!("{what} (and {more} others before)")),
            None => {}
        }
    }
}

/// A request has failed.
pub(crate) fn log_io_error(what: fmt::Arguments<'_>) {
    static LOG: RareLog = RareLog::new();
    LOG.log(what);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels() {
        assert_eq!("info".parse(), Ok(Level::Info));
        assert!("loud".parse::<Level>().is_err());
        assert_eq!(Level::Warning.shifted(1), Level::Info);
        assert_eq!(Level::Warning.shifted(9), Level::Debug);
        assert_eq!(Level::Warning.shifted(-9), Level::Error);
        // As for a terminal, and as for the journal.
        assert_eq!(line(None, "x"), "x\n");
        assert_eq!(line(Some(Level::Warning), "x"), "<4>x\n");
    }

    #[test]
    fn not_too_many() {
        let start = Instant::now();
        let mut limit = Limit::new(start);
        for _ in 0..Limit::LINES {
            assert_eq!(limit.take(start), Some(0));
        }
        assert_eq!((limit.take(start), limit.take(start)), (None, None));
        assert_eq!(limit.take(start + Duration::from_secs(2)), Some(2));
        assert_eq!(limit.take(start + Duration::from_secs(2)), Some(0));
        // It goes on: in the first minute, and in the others.
        let lines = |limit: &mut Limit, from: u64, to: u64| {
            let times = (from * 100..to * 100).map(|n| start + Duration::from_millis(n * 10));
            times.filter(|now| limit.take(*now).is_some()).count()
        };
        assert_eq!(lines(&mut limit, 3, 60), 57 * 10);
        assert!(lines(&mut limit, 60, 300) <= 5 * 10);
        // It comes back much later.
        assert_eq!(lines(&mut limit, 600, 602), 2 * 10);
    }

    #[test]
    fn a_log_begins_anew() {
        let path = std::env::temp_dir().join(format!("fublk-log-{}", std::process::id()));
        let mut log = File::create(&path).unwrap();
        log.write_all(&[b'x'; 100]).unwrap();
        assert!(!cut(&log, 101).unwrap() && cut(&log, 100).unwrap());
        log.write_all(b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        std::fs::remove_file(&path).unwrap();
        // What is no file can not be cut.
        assert!(!cut(&File::open("/dev/null").unwrap(), 0).unwrap());
    }
}
