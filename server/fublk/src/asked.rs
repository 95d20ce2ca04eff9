// SPDX-License-Identifier: GPL-2.0

//! A server that is asked to end, by a signal, at any time.

use crate::notify::tell_systemd;
use std::{
    io, process,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};
use ublk_server::{control, flush_log, log};
use ublk_sys::Signals;

/// Which device ends with this process.
#[derive(Clone, Default)]
pub(crate) struct Asked(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    device: Option<u32>,
    /// Somebody has asked.
    asked: bool,
}

impl Asked {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody asks. Returns the device, if there is one.
    fn ask(&self) -> Option<u32> {
        let mut state = self.state();
        state.asked = true;
        state.device
    }

    /// From now on, a signal ends the device, or the process as long as it has none.
    pub(crate) fn listen(signals: Signals) -> io::Result<Asked> {
        let asked = Asked::default();
        let device = asked.clone();
        thread::Builder::new().name("signals".into()).spawn(move || {
            let stop = move || {
                tell_systemd("STOPPING=1");
                // A device that is just being made is there then.
                let Some(id) = device.ask() else {
                    end("fublk: ended by a signal, before it served a device")
                };
                stop(id);
            };
            // Who asks twice is in a hurry.
            if attend(|| signals.wait().is_ok(), stop) {
                end("fublk: ended by a second signal")
            }
        })?;
        Ok(asked)
    }

    /// Make a device; nobody is asked to end before it is known.
    pub(crate) fn device<T, E>(&self, make: impl FnOnce() -> Result<(u32, T), E>) -> Result<T, E> {
        let mut state = self.state();
        let (id, made) = make()?;
        state.device = Some(id);
        Ok(made)
    }

    /// Its disk is there. A signal that came since the device was made may have found nothing to
    /// stop. One that was there before, whose requests wait, is not to be stopped earlier: they
    /// would fail.
    pub(crate) fn has_disk(&self, id: u32) -> io::Result<()> {
        if self.found(id) {
            // The driver may want our queues for that.
            thread::Builder::new().name("stop again".into()).spawn(move || stop(id))?;
        }
        Ok(())
    }

    /// Returns whether somebody has asked before.
    fn found(&self, id: u32) -> bool {
        let mut state = self.state();
        state.device = Some(id);
        state.asked
    }
}

fn stop(id: u32) {
    if let Err(e) = control::stop(id) {
        log(format_args!("fublk: device {id} can not be stopped: {e}"));
    }
}

/// Begin to stop at the first signal, which may take for ever, and return `true` at the second
/// one. Without a thread for that, it is not heard before. `false`: there are no signals.
fn attend(wait: impl Fn() -> bool, stop: impl FnOnce() + Send + 'static) -> bool {
    if !wait() {
        return false;
    }
    let stop = Arc::new(Mutex::new(Some(stop)));
    let theirs = stop.clone();
    let begin = move || {
        let stop = theirs.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(stop) = stop {
            stop();
        }
    };
    if thread::Builder::new().name("stop".into()).spawn(begin).is_err() {
        let stop = stop.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(stop) = stop {
            stop();
        }
    }
    wait()
}

fn end(why: &str) -> ! {
    log(why);
    flush_log();
    process::exit(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{sync::mpsc, time::Duration};

    #[test]
    fn who_asks_too_early_is_not_forgotten() {
        let asked = Asked::default();
        assert!(!asked.found(7));
        assert_eq!(asked.ask(), Some(7));
        let asked = Asked::default();
        assert_eq!(asked.ask(), None);
        let asked = Asked::default();
        asked.device(|| Ok::<_, ()>((7, ()))).unwrap();
        assert_eq!(asked.ask(), Some(7));
        assert!(asked.found(7), "there may have been nothing to stop");
    }

    #[test]
    fn the_second_signal_is_heard_while_the_first_one_is_obeyed() {
        let (send, signals) = mpsc::channel::<()>();
        let (told, begun) = mpsc::channel();
        let (ended, end) = mpsc::channel();
        thread::spawn(move || {
            let stop = move || {
                told.send(()).unwrap();
                loop {
                    thread::park();
                }
            };
            ended.send(attend(|| signals.recv().is_ok(), stop)).unwrap();
        });
        send.send(()).unwrap();
        begun.recv().unwrap();
        assert!(end.try_recv().is_err(), "one is not enough");
        send.send(()).unwrap();
        assert_eq!(end.recv_timeout(Duration::from_secs(30)), Ok(true));
        let (send, signals) = mpsc::channel::<()>();
        drop(send);
        assert!(!attend(|| signals.recv().is_ok(), || panic!("nobody has asked")));
    }
}
