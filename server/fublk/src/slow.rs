// SPDX-License-Identifier: GPL-2.0

//! Something that may take long: who waits is told what for.

use std::{sync::mpsc, thread, time::Duration};
use ublk_server::{Level, log_at};

/// Nobody wonders before.
const PATIENT: Duration = Duration::from_secs(2);

/// Do this. If it takes long, say what it is, and every now and then for how long.
pub(crate) fn slow<R>(what: &str, work: impl FnOnce() -> R) -> R {
    slow_after(PATIENT, what, |line| log_at(Level::Warning, line), work)
}

fn slow_after<R>(patient: Duration, what: &str, tell: impl Fn(String) + Send, work: impl FnOnce() -> R) -> R {
    thread::scope(|scope| {
        let (over, is_over) = mpsc::channel::<()>();
        scope.spawn(move || {
            let mut waited = Duration::ZERO;
            let mut next = patient;
            // Nothing is ever sent: it is over when the sender is gone.
            while is_over.recv_timeout(next) == Err(mpsc::RecvTimeoutError::Timeout) {
                waited += next;
                tell(format!("fublk: {what}, for {} s now", waited.as_secs()));
                next = waited.min(Duration::from_secs(30));
            }
        });
        let result = work();
        drop(over);
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn only_what_is_slow_is_told() {
        let told = Mutex::new(Vec::new());
        let tell = |line| told.lock().unwrap().push(line);
        assert_eq!(slow_after(Duration::from_secs(60), "waiting", tell, || 7), 7);
        assert!(told.lock().unwrap().is_empty());
        slow_after(Duration::from_millis(1), "waiting for it", tell, || {
            thread::sleep(Duration::from_millis(20))
        });
        assert!(told.lock().unwrap()[0].starts_with("fublk: waiting for it, for "));
    }
}
