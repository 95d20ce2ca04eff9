// SPDX-License-Identifier: GPL-2.0

//! System calls.

use std::{
    fs::File,
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
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

/// May a call that fails so be made again? Memory is short, or there was a signal,
/// or completions have to be looked at first.
pub fn try_again(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
}

/// Is this process root's?
pub fn is_root() -> bool {
    // SAFETY: it only tells.
    unsafe { libc::geteuid() == 0 }
}

/// Ask a process to end, by SIGTERM.
pub fn terminate(pid: u32) -> io::Result<()> {
    let pid = i32::try_from(pid).map_err(io::Error::other)?;
    if pid <= 1 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: no memory is involved.
    check(unsafe { libc::kill(pid, libc::SIGTERM) })?;
    Ok(())
}

/// How much memory this process may lock, in bytes; `None`: all of it.
fn lock_limit() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: it fills this in.
    let unknown = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) } != 0;
    (!unknown && !is_root() && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// Memory, what is there and what will be, is read in now and never given away: the
/// server may be what swap, its own program file or a file system that memory is
/// written back to waits for.
pub fn lock_memory() -> io::Result<()> {
    // It would be for later memory, of a thread for instance, to fail.
    if let Some(limit) = lock_limit() {
        return Err(io::Error::other(format!("only {limit} bytes may be (ulimit -l)")));
    }
    // SAFETY: it only makes pages stay.
    check(unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) })?;
    Ok(())
}

/// The size of a page.
pub(crate) fn page_size() -> usize {
    // SAFETY: it only tells.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// What direct I/O with a file has to be a multiple of, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DirectAlign {
    /// Addresses of memory.
    pub memory: u32,
    /// Offsets and lengths. 0: there is no direct I/O.
    pub offset: u32,
}

/// What the file system says of direct I/O with this file; `None` if it does not.
pub fn direct_align(file: &File) -> io::Result<Option<DirectAlign>> {
    let mut buf = MaybeUninit::<libc::statx>::zeroed();
    let flags = libc::AT_EMPTY_PATH;
    // SAFETY: the path is a string, and the structure is the kernel's to write.
    check(unsafe {
        libc::statx(file.as_raw_fd(), c"".as_ptr(), flags, libc::STATX_DIOALIGN, buf.as_mut_ptr())
    })?;
    // SAFETY: integers only, which were zero before.
    let buf = unsafe { buf.assume_init() };
    Ok((buf.stx_mask & libc::STATX_DIOALIGN != 0)
        .then_some(DirectAlign { memory: buf.stx_dio_mem_align, offset: buf.stx_dio_offset_align }))
}

/// How a file was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenFlags {
    /// To be read.
    pub read: bool,
    /// To be written.
    pub write: bool,
    /// The other `O_*`, as far as they can be seen.
    pub others: i32,
}

/// How this file was opened.
pub fn open_flags(file: BorrowedFd<'_>) -> io::Result<OpenFlags> {
    // SAFETY: no memory is involved.
    let flags = check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) })?;
    let access = flags & libc::O_ACCMODE;
    Ok(OpenFlags {
        read: access != libc::O_WRONLY,
        write: access != libc::O_RDONLY,
        others: flags & !libc::O_ACCMODE,
    })
}

/// The logical block of a block device, in bytes.
pub fn logical_block(device: &File) -> io::Result<u32> {
    const BLKSSZGET: libc::c_ulong = 0x1268;
    let mut size: libc::c_int = 0;
    // SAFETY: that request writes an int.
    check(unsafe { libc::ioctl(device.as_raw_fd(), BLKSSZGET, &mut size) })?;
    u32::try_from(size).map_err(io::Error::other)
}

/// The numbers of a block device, as they are in sysfs.
pub fn disk_number(rdev: u64) -> String {
    format!("{}:{}", libc::major(rdev), libc::minor(rdev))
}

/// What sysfs says of a block device; of a partition, what it says of the disk that has it.
pub fn disk_attribute(rdev: u64, name: &str) -> Option<String> {
    let read = |at| std::fs::read_to_string(format!("/sys/dev/block/{}/{at}{name}", disk_number(rdev)));
    let text = read("").or_else(|_| read("../")).ok()?;
    Some(text.trim().to_owned())
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

/// A file of so many zeroes, which is memory as far as something is written to it.
/// Nobody else can open it.
pub fn memory_file(len: u64) -> io::Result<File> {
    // SAFETY: the name is a string.
    let fd = check(unsafe { libc::memfd_create(c"fublk".as_ptr(), libc::MFD_CLOEXEC) })?;
    // SAFETY: this descriptor is new, and nobody else has it.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.set_len(len)?;
    Ok(file)
}

/// `fallocate()`, for those who have no ring.
pub fn allocate(file: &File, mode: i32, offset: u64, len: u64) -> io::Result<()> {
    let offset = i64::try_from(offset).map_err(io::Error::other)?;
    let len = i64::try_from(len).map_err(io::Error::other)?;
    // SAFETY: no memory is involved.
    check(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) })?;
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_disk() {
        assert_eq!(disk_number(libc::makedev(7, 0)), "7:0");
        assert_eq!(disk_number(libc::makedev(259, 70_000)), "259:70000");
        assert_eq!(disk_attribute(libc::makedev(0xfff, 0xfffff), "size"), None);
    }
}
