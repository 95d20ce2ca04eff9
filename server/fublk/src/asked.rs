// SPDX-License-Identifier: GPL-2.0

//! A server that is asked to end, by a signal, at any time.

use crate::notify::tell_systemd;
use std::{
    io, process,
    sync::{Arc, Mutex, PoisonError},
    thread,
};
use ublk_server::{control, flush_log, log};
use ublk_sys::Signals;

/// Which device ends with this process.
#[derive(Clone, Default)]
pub(crate) struct Asked(Arc<Mutex<Option<u32>>>);

impl Asked {
    /// From now on, a signal ends the device, or the process as long as there is none.
    pub(crate) fn listen(signals: Signals) -> io::Result<Asked> {
        let asked = Asked::default();
        let device = asked.clone();
        thread::Builder::new().name("signals".into()).spawn(move || {
            let stop = move || {
                tell_systemd("STOPPING=1");
                // A device that is just being made is there then.
                let id = *device.0.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(id) = id else { end("fublk: ended by a signal, before there was a device") };
                if let Err(e) = control::stop(id) {
                    log(format_args!("fublk: device {id} can not be stopped: {e}"));
                }
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
        let mut device = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (id, made) = make()?;
        *device = Some(id);
        Ok(made)
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
