// SPDX-License-Identifier: GPL-2.0

//! System calls.

use std::{
    fs::File,
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A bit of [`io_uring_features()`]: there are fused commands. Without it, what
/// follows such a command would be executed as an ordinary request.
pub const FUSED_CMD_FEATURE: u32 = 1 << 18;

/// What io_uring of this kernel can do: `IORING_FEAT_*`.
pub fn io_uring_features() -> io::Result<u32> {
    // `struct io_uring_params`, of which the sixth word tells.
    let mut params = [0u32; 30];
    // SAFETY: the kernel reads and writes these 120 bytes.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1u32, params.as_mut_ptr()) };
    let fd = check(i32::try_from(fd).map_err(io::Error::other)?)?;
    // SAFETY: this descriptor is new, and nobody else has it.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok(params[5])
}

/// Memory that is never written to swap, and is there when it is needed: the
/// server may be what swap, or a file system that memory is written back to, waits
/// for.
pub fn lock_memory() -> io::Result<()> {
    // SAFETY: it only makes pages stay.
    check(unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) })?;
    Ok(())
}

/// This process serves block I/O: allocations on its behalf must not wait for
/// that. Children and threads inherit it.
pub fn on_io_path() -> io::Result<()> {
    const PR_SET_IO_FLUSHER: i32 = 57;
    // SAFETY: it sets a flag.
    check(unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) })?;
    Ok(())
}

/// This process is on its own: no terminal tells it to end.
pub fn new_session() -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::setsid() })?;
    Ok(())
}

/// A set of CPUs, as the kernel has it: bit n is CPU n.
pub type CpuSet = [u8; 128];

/// The calling thread runs on these CPUs from now on.
pub fn pin_thread(cpus: &CpuSet) -> io::Result<()> {
    const _: () = assert!(size_of::<libc::cpu_set_t>() == size_of::<CpuSet>());
    // SAFETY: the kernel reads as many bytes as it is told.
    check(unsafe { libc::sched_setaffinity(0, cpus.len(), cpus.as_ptr().cast()) })?;
    Ok(())
}

/// `fallocate()`, for those who have no ring.
pub fn allocate(file: &File, mode: i32, offset: u64, len: u64) -> io::Result<()> {
    let offset = i64::try_from(offset).map_err(io::Error::other)?;
    let len = i64::try_from(len).map_err(io::Error::other)?;
    // SAFETY: no memory is involved.
    check(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) })?;
    Ok(())
}

/// A file that is only in memory. Nobody else can open it.
pub fn file_in_memory() -> io::Result<File> {
    // SAFETY: a string that ends, and flags.
    let fd = check(unsafe { libc::memfd_create(c"fublk".as_ptr(), libc::MFD_CLOEXEC) })?;
    // SAFETY: this descriptor is new, and nobody else has it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// The signals that ask a server to end: SIGINT, SIGTERM and SIGHUP.
pub struct Signals(libc::sigset_t);

impl Signals {
    /// From now on these wait until somebody [waits](Self::wait) for them, in this
    /// thread and those that it starts.
    pub fn block() -> io::Result<Signals> {
        let mut set = MaybeUninit::uninit();
        // SAFETY: it initialises the set.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: initialised just now.
        let mut set = unsafe { set.assume_init() };
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            // SAFETY: a valid set and a valid signal.
            unsafe { libc::sigaddset(&mut set, signal) };
        }
        // SAFETY: a valid set; nobody asks for the old one.
        match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) } {
            0 => Ok(Signals(set)),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// Wait for one of them.
    pub fn wait(&self) -> io::Result<i32> {
        let mut signal = 0;
        // SAFETY: a valid set, and a place for the answer.
        match unsafe { libc::sigwait(&self.0, &mut signal) } {
            0 => Ok(signal),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}
