// SPDX-License-Identifier: GPL-2.0

//! What the commands of a device with `UBLK_F_BATCH_IO` say: about many tags of one queue.

use crate::{
    data_mode::{
        AutoReg,
        DataMode, //
    },
    uapi::{
        DevInfo,
        UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK,
        UBLK_BATCH_F_HAS_BUF_ADDR,
        UBLK_BATCH_F_HAS_ZONE_LBA,
        UBLK_F_ZONED, //
    }, //
};
use kernel::{
    prelude::*,
    uapi, //
};
use zerocopy_derive::{
    Immutable,
    KnownLayout, //
};

/// `UBLK_U_IO_PREP_IO_CMDS`: the first use of slots.
pub(crate) const PREP_IO_CMDS: u32 = kernel::ioctl::_IOWR::<BatchIo>(b'u' as u32, 0x25);
/// `UBLK_U_IO_COMMIT_IO_CMDS`: the results of requests.
pub(crate) const COMMIT_IO_CMDS: u32 = kernel::ioctl::_IOWR::<BatchIo>(b'u' as u32, 0x26);
/// `UBLK_U_IO_FETCH_IO_CMDS`: the server is told tags with this command.
pub(crate) const FETCH_IO_CMDS: u32 = kernel::ioctl::_IOWR::<BatchIo>(b'u' as u32, 0x27);

/// `struct ublk_batch_io`, the payload of a command.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(crate) struct BatchIo {
    pub(crate) q_id: u16,
    flags: u16,
    nr_elem: u16,
    elem_bytes: u8,
    reserved: u8,
    reserved2: u64,
}

static_assert!(size_of::<BatchIo>() == size_of::<uapi::ublk_batch_io>());
static_assert!(size_of::<uapi::ublk_elem_header>() == Element::HEADER);

/// What the commands of a device may say.
pub(crate) struct Rules {
    nr_queues: u16,
    depth: u16,
    /// The flags that there may be.
    flags: u32,
    registers: bool,
}

impl Rules {
    /// The rules of the device that `info` describes.
    pub(crate) fn new(info: &DevInfo) -> Self {
        let data = DataMode::new(info.flags);
        let allow = |flag, allowed| if allowed { flag } else { 0 };

        // An element has a buffer either by its address or by its index: no device has both.
        Self {
            nr_queues: info.nr_hw_queues,
            depth: info.queue_depth,
            flags: allow(UBLK_BATCH_F_HAS_ZONE_LBA, info.flags & UBLK_F_ZONED != 0)
                | allow(UBLK_BATCH_F_HAS_BUF_ADDR, data.copies)
                | allow(UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK, data.registers),
            registers: data.registers,
        }
    }
}

impl BatchIo {
    /// Checks a command that has elements; returns how these look.
    ///
    /// Fails with [`E2BIG`] if there are more of them than the queue has tags, and with [`EINVAL`]
    /// for another queue than there are, and for flags and sizes that make no sense.
    #[inline]
    pub(crate) fn elements(&self, rules: &Rules) -> Result<Layout> {
        let flags = u32::from(self.flags);
        let lba = flags & UBLK_BATCH_F_HAS_ZONE_LBA != 0;
        let addr = flags & UBLK_BATCH_F_HAS_BUF_ADDR != 0;
        let bytes = Element::HEADER + 8 * (usize::from(addr) + usize::from(lba));

        if self.q_id >= rules.nr_queues {
            return Err(EINVAL);
        }
        if self.nr_elem > rules.depth {
            return Err(E2BIG);
        }
        if flags & !rules.flags != 0 || usize::from(self.elem_bytes) != bytes {
            return Err(EINVAL);
        }
        Ok(Layout {
            nr: self.nr_elem.into(),
            bytes,
            addr,
            lba,
            fallback: flags & UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK != 0,
            registers: rules.registers,
        })
    }

    /// Checks a command whose elements are [`Moved`]; returns the bytes of all of them.
    ///
    /// Fails as [`Self::elements`] does, and with [`EINVAL`] if there are none.
    pub(crate) fn moved(&self, rules: &Rules) -> Result<usize> {
        if self.flags != 0 || self.reserved != 0 || self.reserved2 != 0 || self.nr_elem == 0 {
            return Err(EINVAL);
        }
        Ok(self.elements(rules)?.total())
    }

    /// Checks a command that the server is told tags with, but for its queue. Fails with
    /// [`EINVAL`].
    pub(crate) fn check_fetch(&self) -> Result {
        if usize::from(self.elem_bytes) != size_of::<u16>() || self.flags != 0 {
            return Err(EINVAL);
        }
        Ok(())
    }
}

/// How the elements of a command look.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Layout {
    nr: usize,
    /// Bytes of each.
    pub(crate) bytes: usize,
    addr: bool,
    lba: bool,
    fallback: bool,
    registers: bool,
}

impl Layout {
    /// Bytes of all elements.
    pub(crate) fn total(&self) -> usize {
        self.nr * self.bytes
    }

    /// Reads one element. [`None`] if `bytes` are not those of one.
    pub(crate) fn element(&self, bytes: &[u8]) -> Option<Element> {
        let (header, rest) = bytes.split_first_chunk::<{ Element::HEADER }>()?;
        let [t0, t1, i0, i1, result @ ..] = *header;
        let auto_reg = AutoReg::new(u16::from_ne_bytes([i0, i1]), self.fallback);

        Some(Element {
            tag: u16::from_ne_bytes([t0, t1]),
            result: i32::from_ne_bytes(result),
            addr: match rest.first_chunk() {
                Some(addr) if self.addr => u64::from_ne_bytes(*addr),
                _ => 0,
            },
            lba: match rest.last_chunk() {
                Some(lba) if self.lba => Some(u64::from_ne_bytes(*lba)),
                _ => None,
            },
            auto_reg: self.registers.then_some(auto_reg),
        })
    }
}

/// What a command says about one tag: `struct ublk_elem_header`, and what follows it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Element {
    pub(crate) tag: u16,
    pub(crate) result: i32,
    /// The server's buffer, 0 if there is none.
    pub(crate) addr: u64,
    /// Where the data of a zone append was written.
    pub(crate) lba: Option<u64>,
    /// Where to register the data of the next request.
    pub(crate) auto_reg: Option<AutoReg>,
}

impl Element {
    const HEADER: usize = 8;
}

/// What a command says about a tag whose data secondaries move: `struct ublk_elem_header`, in which
/// `buf_index` is their number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Moved {
    pub(crate) tag: u16,
    /// How many secondaries move the data, 0 if there is none.
    pub(crate) nr: u16,
    /// What the request ends with if there are none.
    pub(crate) result: i32,
}

impl Moved {
    pub(crate) const BYTES: usize = Element::HEADER;

    /// Reads one. [`None`] if `bytes` are not those of one.
    pub(crate) fn new(bytes: &[u8]) -> Option<Self> {
        let [t0, t1, n0, n1, result @ ..] = *bytes.first_chunk::<{ Self::BYTES }>()?;

        Some(Self {
            tag: u16::from_ne_bytes([t0, t1]),
            nr: u16::from_ne_bytes([n0, n1]),
            result: i32::from_ne_bytes(result),
        })
    }
}

#[kunit_tests(ublk_rs_batch_cmd)]
mod tests {
    use super::*;
    use crate::uapi::*;

    fn rules(features: u64) -> Rules {
        let mut info: DevInfo = zerocopy::FromZeros::new_zeroed();
        info.nr_hw_queues = 2;
        info.queue_depth = 16;
        info.flags = features;
        Rules::new(&info)
    }

    fn cmd(flags: u32, nr_elem: u16, elem_bytes: u8) -> BatchIo {
        BatchIo {
            q_id: 1,
            flags: flags as u16,
            nr_elem,
            elem_bytes,
            reserved: 0,
            reserved2: 0,
        }
    }

    #[test]
    fn layouts() {
        let get = |features, cmd: BatchIo| cmd.elements(&rules(features)).map(|l| l.total());
        let addr = UBLK_BATCH_F_HAS_BUF_ADDR;
        let lba = UBLK_BATCH_F_HAS_ZONE_LBA;
        let fallback = UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK;

        assert_eq!(get(0, cmd(addr, 16, 16)), Ok(256));
        assert_eq!(get(0, cmd(addr, 17, 16)), Err(E2BIG));
        assert_eq!(get(0, cmd(addr, 16, 8)), Err(EINVAL));
        assert_eq!(get(0, cmd(0, 3, 8)), Ok(24));
        assert_eq!(get(0, cmd(8, 3, 8)), Err(EINVAL));
        assert_eq!(get(0, cmd(lba, 3, 16)), Err(EINVAL));
        assert_eq!(get(0, cmd(fallback, 3, 8)), Err(EINVAL));
        assert_eq!(get(UBLK_F_USER_COPY, cmd(addr, 3, 16)), Err(EINVAL));
        assert_eq!(get(UBLK_F_AUTO_BUF_REG, cmd(fallback, 3, 8)), Ok(24));
        let other = BatchIo {
            q_id: 2,
            ..cmd(0, 99, 8)
        };
        assert_eq!(get(0, other), Err(EINVAL));
        let both = cmd(addr | lba, 2, 24).elements(&rules(UBLK_F_ZONED));
        assert_eq!(both.map(|layout| layout.total()), Ok(48));
    }

    #[test]
    fn elements() -> Result {
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&7u16.to_ne_bytes());
        bytes[2..4].copy_from_slice(&9u16.to_ne_bytes());
        bytes[4..8].copy_from_slice(&(-5i32).to_ne_bytes());
        bytes[8..].copy_from_slice(&0x1234u64.to_ne_bytes());

        let copy = cmd(UBLK_BATCH_F_HAS_BUF_ADDR, 1, 16).elements(&rules(0))?;
        let element = copy.element(&bytes).ok_or(EINVAL)?;
        assert_eq!((element.tag, element.result), (7, -5));
        assert_eq!((element.addr, element.auto_reg), (0x1234, None));
        assert_eq!(copy.element(&bytes[..7]), None);
        assert_eq!(element.lba, None);

        let zoned = &rules(UBLK_F_ZONED | UBLK_F_USER_COPY);
        let append = cmd(UBLK_BATCH_F_HAS_ZONE_LBA, 1, 16).elements(zoned)?;
        let element = append.element(&bytes).ok_or(EINVAL)?;
        assert_eq!((element.addr, element.lba), (0, Some(0x1234)));

        let auto = cmd(UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK, 1, 8);
        let auto = auto.elements(&rules(UBLK_F_AUTO_BUF_REG))?;
        let element = auto.element(&bytes[..8]).ok_or(EINVAL)?;
        let auto_reg = AutoReg::new(9, true);
        assert_eq!((element.addr, element.auto_reg), (0, Some(auto_reg)));
        Ok(())
    }

    #[test]
    fn moved() {
        let get = |cmd: BatchIo| cmd.moved(&rules(UBLK_F_FUSED_CMD));

        assert_eq!(get(cmd(0, 16, 8)), Ok(128));
        assert_eq!(get(cmd(0, 17, 8)), Err(E2BIG));
        assert_eq!(get(cmd(0, 0, 8)), Err(EINVAL));
        assert_eq!(get(cmd(0, 1, 16)), Err(EINVAL));
        assert_eq!(get(cmd(UBLK_BATCH_F_HAS_BUF_ADDR, 1, 16)), Err(EINVAL));

        let reserved = BatchIo {
            reserved2: 1,
            ..cmd(0, 1, 8)
        };
        assert_eq!(get(reserved), Err(EINVAL));

        let [t0, t1] = 7u16.to_ne_bytes();
        let [n0, n1] = 3u16.to_ne_bytes();
        let [r0, r1, r2, r3] = (-5i32).to_ne_bytes();
        let bytes = [t0, t1, n0, n1, r0, r1, r2, r3];
        let (tag, nr, result) = (7, 3, -5);
        assert_eq!(Moved::new(&bytes), Some(Moved { tag, nr, result }));
        assert_eq!(Moved::new(&bytes[..7]), None);
    }

    #[test]
    fn fetch() {
        assert_eq!(cmd(0, 99, 2).check_fetch(), Ok(()));
        assert_eq!(cmd(0, 0, 8).check_fetch(), Err(EINVAL));
        assert_eq!(cmd(1, 0, 2).check_fetch(), Err(EINVAL));
    }
}
