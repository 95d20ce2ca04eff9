// SPDX-License-Identifier: GPL-2.0

//! Other processes.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

/// A process, whoever gets its number when it is gone.
#[derive(Debug)]
pub struct Process(OwnedFd);

impl Process {
    /// The one that has this number now.
    pub fn of(pid: i32) -> io::Result<Process> {
        // SAFETY: no memory is involved.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: this descriptor is new, and nobody else has it.
        Ok(Process(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Wait until it has ended, with all of its threads, and has no files any more. Returns `false` if it
    /// has not in this time.
    pub fn wait(&self, patience: Duration) -> io::Result<bool> {
        let end = Instant::now() + patience;
        loop {
            let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            let left = end.saturating_duration_since(Instant::now()).as_millis();
            let left = i32::try_from(left).unwrap_or(i32::MAX);
            // SAFETY: the kernel reads and writes this one structure.
            match unsafe { libc::poll(&mut poll, 1, left) } {
                0 => return Ok(false),
                1.. => return Ok(true),
                _ => match io::Error::last_os_error() {
                    e if e.kind() == io::ErrorKind::Interrupted => {}
                    e => return Err(e),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn its_end() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let process = Process::of(child.id().cast_signed()).unwrap();
        assert!(!process.wait(Duration::ZERO).unwrap());
        assert!(!process.wait(Duration::from_millis(20)).unwrap());
        drop(child.stdin.take());
        // As a zombie, and as nothing.
        assert!(process.wait(Duration::from_secs(60)).unwrap());
        child.wait().unwrap();
        assert!(process.wait(Duration::ZERO).unwrap());
        assert!(Process::of(-1).is_err());
    }
}
