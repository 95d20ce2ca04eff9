// SPDX-License-Identifier: GPL-2.0

//! `/dev/ublk-control`.

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use std::{fs::File, io, os::fd::AsRawFd};
use ublk_sys::{
    Errno, try_again,
    uapi::{CTRL_CMD_LEN, ControlOp},
};

/// A command.
#[derive(Clone, Copy, Debug)]
pub struct ControlCmd {
    /// What to do.
    pub op: ControlOp,
    /// The device; all ones if it is about none.
    pub id: u32,
    /// The queue; all ones if it is about none.
    pub queue: u16,
    /// Depends on the command.
    pub data: u64,
    /// So many bytes at the start of the memory are the path of the device's node, by
    /// which the driver sees who may do that.
    pub path_len: u16,
}

/// The control device, and a ring to talk to it.
pub struct Control {
    device: File,
    uring: IoUring<squeue::Entry128, cqueue::Entry>,
}

impl Control {
    /// Open `/dev/ublk-control`.
    pub fn open() -> io::Result<Control> {
        let device = File::options().read(true).write(true).open("/dev/ublk-control")?;
        Ok(Control { device, uring: IoUring::builder().build(2)? })
    }

    /// Execute a command, and wait for its end. The kernel reads `memory`, or writes
    /// it: that depends on the command.
    pub fn execute(&mut self, cmd: &ControlCmd, memory: &mut [u8]) -> Result<u32, Errno> {
        let len = u16::try_from(memory.len()).map_err(|_| Errno::EINVAL)?;
        let addr = if memory.is_empty() { 0 } else { memory.as_mut_ptr().expose_provenance() as u64 };
        // `struct ublksrv_ctrl_cmd`
        let mut bytes = [0u8; 80];
        const _: () = assert!(CTRL_CMD_LEN == 32);
        bytes[0..4].copy_from_slice(&cmd.id.to_ne_bytes());
        bytes[4..6].copy_from_slice(&cmd.queue.to_ne_bytes());
        bytes[6..8].copy_from_slice(&len.to_ne_bytes());
        bytes[8..16].copy_from_slice(&addr.to_ne_bytes());
        bytes[16..24].copy_from_slice(&cmd.data.to_ne_bytes());
        bytes[24..26].copy_from_slice(&cmd.path_len.to_ne_bytes());
        let fd = types::Fd(self.device.as_raw_fd());
        let entry = opcode::UringCmd80::new(fd, cmd.op as u32).cmd(bytes).build();
        // SAFETY: the memory is borrowed until the command has completed, for which
        // we wait below, whatever happens meanwhile. The driver uses it within its
        // length only.
        unsafe { self.uring.submission().push(&entry) }.map_err(|_| Errno::EBUSY)?;
        loop {
            if let Some(cqe) = self.uring.completion().next() {
                return match Errno::of(cqe.result()) {
                    Some(errno) => Err(errno),
                    None => Ok(cqe.result().unsigned_abs()),
                };
            }
            match self.uring.submit_and_wait(1) {
                Ok(_) => {}
                Err(e) if try_again(&e) => std::thread::yield_now(),
                // The kernel may still write the memory: not even a panic may leave.
                Err(e) => {
                    eprintln!("io_uring_enter: {e}");
                    std::process::abort()
                }
            }
        }
    }
}
