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
            if signals.wait().is_err() {
                return;
            }
            tell_systemd("STOPPING=1");
            // A device that is just being made is there then.
            let id = *device.0.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(id) = id else { end("fublk: ended by a signal, before there was a device") };
            if let Err(e) = control::stop(id) {
                log(format_args!("fublk: device {id} can not be stopped: {e}"));
            }
            // Who asks twice is in a hurry.
            let _ = signals.wait();
            end("fublk: ended by a second signal")
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

fn end(why: &str) -> ! {
    log(why);
    flush_log();
    process::exit(1)
}
