// SPDX-License-Identifier: GPL-2.0

//! Requests and simple replies, as they are on the wire. Numbers are big-endian.

use ublk_server::Errno;

/// What an export can do, `NBD_FLAG_*`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Flags(pub(crate) u16);

impl Flags {
    pub(crate) const HAS_FLAGS: Flags = Flags(1 << 0);
    pub(crate) const READ_ONLY: Flags = Flags(1 << 1);
    pub(crate) const FLUSH: Flags = Flags(1 << 2);
    pub(crate) const FUA: Flags = Flags(1 << 3);
    pub(crate) const TRIM: Flags = Flags(1 << 5);
    pub(crate) const WRITE_ZEROES: Flags = Flags(1 << 6);
    pub(crate) const MULTI_CONN: Flags = Flags(1 << 8);

    pub(crate) fn has(self, flag: Flags) -> bool {
        self.0 & flag.0 == flag.0
    }
}

/// What is asked for, `NBD_CMD_*`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub(crate) enum Command {
    Read = 0,
    Write = 1,
    Disconnect = 2,
    Flush = 3,
    Trim = 4,
    WriteZeroes = 6,
}

/// With a write: it has to be on the medium.
pub(crate) const FUA: u16 = 1 << 0;
/// With a write of zeroes: the room for them stays.
pub(crate) const NO_HOLE: u16 = 1 << 1;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;

pub(crate) const REQUEST_LEN: usize = 28;
pub(crate) const REPLY_LEN: usize = 16;

/// The head of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Head {
    pub(crate) command: Command,
    pub(crate) flags: u16,
    pub(crate) offset: u64,
    pub(crate) len: u32,
}

impl Head {
    /// Its bytes, with this cookie, which the reply has as well.
    pub(crate) fn encode(&self, cookie: u64) -> [u8; REQUEST_LEN] {
        let mut bytes = [0; REQUEST_LEN];
        bytes[0..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.flags.to_be_bytes());
        bytes[6..8].copy_from_slice(&(self.command as u16).to_be_bytes());
        bytes[8..16].copy_from_slice(&cookie.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_be_bytes());
        bytes[24..28].copy_from_slice(&self.len.to_be_bytes());
        bytes
    }
}

/// What a server says of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Reply {
    pub(crate) cookie: u64,
    pub(crate) result: Result<(), Refusal>,
}

/// Why a request is not done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// It has failed.
    Failed(Errno),
    /// The server goes away, another one may do it.
    Leaving,
}

fn be32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |n, byte| n << 8 | u32::from(*byte))
}

impl Reply {
    /// `None` if this is no simple reply.
    pub(crate) fn decode(bytes: &[u8; REPLY_LEN]) -> Option<Reply> {
        if be32(&bytes[0..4]) != REPLY_MAGIC {
            return None;
        }
        let result = match be32(&bytes[4..8]) {
            0 => Ok(()),
            1 => Err(Refusal::Failed(Errno::EPERM)),
            12 => Err(Refusal::Failed(Errno::ENOMEM)),
            22 => Err(Refusal::Failed(Errno::EINVAL)),
            28 => Err(Refusal::Failed(Errno::ENOSPC)),
            95 => Err(Refusal::Failed(Errno::EOPNOTSUPP)),
            108 => Err(Refusal::Leaving),
            // EIO, and what nobody knows.
            _ => Err(Refusal::Failed(Errno::EIO)),
        };
        let cookie = u64::from(be32(&bytes[8..12])) << 32 | u64::from(be32(&bytes[12..16]));
        Some(Reply { cookie, result })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request() {
        let head =
            Head { command: Command::WriteZeroes, flags: NO_HOLE, offset: 0x0102_0304_0506, len: 0x1000 };
        assert_eq!(
            head.encode(0xa1b2_c3d4_e5f6_0718),
            [
                0x25, 0x60, 0x95, 0x13, 0, 2, 0, 6, 0xa1, 0xb2, 0xc3, 0xd4, 0xe5, 0xf6, 0x07, 0x18, 0, 0, 1,
                2, 3, 4, 5, 6, 0, 0, 0x10, 0
            ]
        );
    }

    #[test]
    fn replies() {
        let reply = |magic: u32, error: u32| {
            let mut bytes = [0; REPLY_LEN];
            bytes[0..4].copy_from_slice(&magic.to_be_bytes());
            bytes[4..8].copy_from_slice(&error.to_be_bytes());
            bytes[8..16].copy_from_slice(&0xa1b2_c3d4_e5f6_0718u64.to_be_bytes());
            Reply::decode(&bytes)
        };
        let good = reply(REPLY_MAGIC, 0).unwrap();
        assert_eq!((good.cookie, good.result), (0xa1b2_c3d4_e5f6_0718, Ok(())));
        // That of a structured reply.
        assert_eq!(reply(0x668e_33ef, 0), None);
        for (number, errno) in [
            (1, Errno::EPERM),
            (5, Errno::EIO),
            (12, Errno::ENOMEM),
            (28, Errno::ENOSPC),
            (95, Errno::EOPNOTSUPP),
            (11, Errno::EIO),
            (u32::MAX, Errno::EIO),
        ] {
            assert_eq!(reply(REPLY_MAGIC, number).unwrap().result, Err(Refusal::Failed(errno)), "{number}");
        }
        assert_eq!(reply(REPLY_MAGIC, 108).unwrap().result, Err(Refusal::Leaving));
    }
}
