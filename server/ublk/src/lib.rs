// SPDX-License-Identifier: GPL-2.0

//! Block devices of ublk, served in user space.
//!
//! Write a [`Target`], which says how large a device is and answers its requests,
//! and [serve](Device::serve) it. The data of a request go between the request and
//! files, and the target says which files and where; how they get there depends on
//! what the kernel offers (see [`Mode`]).
//!
//! Wrong use does not compile:
//!
//! - Data go one way. What is read can not be written to a file:
//!   ```compile_fail,E0599
//!   use ublk_server::{Answer, FileId, Read};
//!   fn serve<'r>(read: Read<'r>, file: FileId) -> Answer<'r> {
//!       read.to_file(file, 0)
//!   }
//!   ```
//! - A request is answered once:
//!   ```compile_fail,E0382
//!   use ublk_server::{Answer, FileId, Read};
//!   fn serve<'r>(read: Read<'r>, file: FileId) -> Answer<'r> {
//!       let first = read.from_file(file, 0);
//!       read.from_file(file, 0)
//!   }
//!   ```
//!   and not used after the answer:
//!   ```compile_fail,E0382
//!   use ublk_server::{Answer, FileId, Write};
//!   fn serve<'r>(write: Write<'r>, file: FileId) -> (Answer<'r>, u32) {
//!       (write.to_file(file, 0), write.len())
//!   }
//!   ```
//! - It is answered: nothing else makes an answer, and that of another request will
//!   not do:
//!   ```compile_fail
//!   use ublk_server::{Answer, Flush};
//!   fn serve<'a, 'b>(one: Flush<'a>, other: Flush<'b>) -> Answer<'a> {
//!       one.done();
//!       other.done()
//!   }
//!   ```
//! - A read is answered with all of its data, from its first byte to its last, or
//!   with an error. There is no way to say that it is done without:
//!   ```compile_fail,E0599
//!   use ublk_server::{Answer, Read};
//!   fn serve<'r>(read: Read<'r>) -> Answer<'r> {
//!       read.done()
//!   }
//!   ```
//! - What is received from a socket comes from one that was attached, whose end is
//!   noticed. It is no file:
//!   ```compile_fail,E0308
//!   use ublk_server::{Answer, Read, SocketId};
//!   fn serve<'r>(read: Read<'r>, socket: SocketId) -> Answer<'r> {
//!       read.from_file(socket, 0)
//!   }
//!   ```
//! - What is received is no good data unless all has come, and a read whose data did
//!   not come is still to be answered:
//!   ```compile_fail,E0308
//!   use ublk_server::{Answer, Read, Socket};
//!   async fn serve<'r>(read: Read<'r>, socket: Socket) -> Answer<'r> {
//!       read.receive(socket).await
//!   }
//!   ```
//! - A queue stays in its thread:
//!   ```compile_fail,E0277
//!   use ublk_server::Io;
//!   fn elsewhere(io: &Io) {
//!       std::thread::scope(|s| s.spawn(|| io.mode()));
//!   }
//!   ```
//!
//! And this does:
//! ```
//! use ublk_server::{Answer, FileId, Read, Write};
//! fn read<'r>(read: Read<'r>, file: FileId) -> Answer<'r> {
//!     let offset = read.offset();
//!     read.from_file(file, offset)
//! }
//! fn write<'r>(write: Write<'r>, file: FileId) -> Answer<'r> {
//!     let offset = write.offset();
//!     write.to_file(file, offset)
//! }
//! ```

#![forbid(unsafe_code)]

mod device;
mod io;
mod logging;
mod queue;
mod request;
pub mod sim;
mod socket;
mod syncs;
mod target;

pub use device::{Device, Options, Recovery, control};
pub use io::{Allocate, Attach, Io, Mode};
pub use logging::{
    Level, RareLog, flush_log, is_logged, log, log_at, log_in_background, log_level, set_log_level,
};
pub use request::{Answer, Flush, Piece, Range, Read, Request, Write};
pub use socket::Socket;
pub use syncs::is_loss;
pub use target::{FileId, Files, Geometry, SocketId, Target};
pub use ublk_sys::{
    Buffer, DirectAlign, Errno, abort, allocate, byte_is_locked, connect_unix, direct_align, disk_attribute,
    drop_unsent, lock_byte, logical_block, memory_file, notice_silence,
};
