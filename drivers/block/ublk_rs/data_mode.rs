// SPDX-License-Identifier: GPL-2.0

//! How the data of a device's requests moves, and what the server's commands have to say about it.

use crate::uapi::*;
use kernel::{
    block::mq::{
        Op,
        RequestView, //
    },
    prelude::*,
    uapi, //
};

/// How a server may reach the data of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Reach {
    /// By all means that the device has.
    Any,
    /// By the commands that commit the request only: the driver sees to it that no reader gets
    /// memory that nobody wrote. Such a server needs not be trusted.
    Commit,
}

/// What the features of a device mean for the data of its requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct DataMode {
    /// The driver copies it, between the request and a buffer of the server.
    pub(crate) copies: bool,
    /// For a write, the server is asked for its buffer when there is something to write.
    pub(crate) asks: bool,
    /// The driver registers it with the ring of the server's command.
    pub(crate) registers: bool,
    /// It may be in memory that the server shares with its clients.
    pub(crate) shares: bool,
    /// Secondaries of fused commands move it.
    pub(crate) lends: bool,
    pub(crate) reach: Reach,
    /// What all of that means for a request that the server is about to get.
    pub(crate) handover: Handover,
    /// What all of that means for one that it has given back: nothing is done with the data.
    pub(crate) leaves: bool,
}

/// What is to be done with a request before the server gets it. In one place, as each request asks
/// for it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Handover {
    /// It is described.
    Describe,
    /// As well, and its data is copied if it is a write.
    Copy,
    /// As well, and its data is registered.
    Register,
    /// What the features say, one by one.
    Other,
}

impl DataMode {
    /// The mode of a device with the features `flags`.
    pub(crate) fn new(flags: u64) -> Self {
        const SERVER_MOVES_IT: u64 =
            UBLK_F_USER_COPY | UBLK_F_SUPPORT_ZERO_COPY | UBLK_F_AUTO_BUF_REG | UBLK_F_FUSED_CMD;
        let copies = flags & SERVER_MOVES_IT == 0;
        let registers = flags & UBLK_F_AUTO_BUF_REG != 0;
        let shares = flags & UBLK_F_SHMEM_ZC != 0;
        let lends = flags & UBLK_F_FUSED_CMD != 0;
        let reach = if lends && flags & UBLK_F_UNPRIVILEGED_DEV != 0 {
            Reach::Commit
        } else {
            Reach::Any
        };

        Self {
            copies,
            asks: copies && flags & UBLK_F_NEED_GET_DATA != 0,
            registers,
            shares,
            lends,
            reach,
            handover: match (copies, registers, shares) {
                (false, false, false) => Handover::Describe,
                (true, false, false) => Handover::Copy,
                (false, true, false) => Handover::Register,
                _ => Handover::Other,
            },
            leaves: !copies && !shares && reach == Reach::Any,
        }
    }

    /// Whether a request needs no more than a description before the server gets it.
    #[inline(always)]
    pub(crate) fn describes_only(&self, rq: &RequestView) -> bool {
        match self.handover {
            Handover::Describe => true,
            // The data of a write has to be copied.
            Handover::Copy => rq.op() != Op::Write,
            Handover::Register | Handover::Other => false,
        }
    }

    /// Fails with [`EPERM`] if the server may reach data by commits only.
    #[inline]
    pub(crate) fn check_reach(self) -> Result {
        match self.reach {
            Reach::Any => Ok(()),
            Reach::Commit => Err(EPERM),
        }
    }

    /// Whether `addr` is right for the first command of a slot.
    pub(crate) fn check_fetch(self, addr: u64) -> Result {
        self.check(addr, self.asks)
    }

    /// Whether `addr` is right for the command that commits `rq`.
    #[inline(always)]
    pub(crate) fn check_commit(&self, addr: u64, rq: &RequestView) -> Result {
        if self.copies == (addr != 0) {
            return Ok(());
        }
        self.check_odd_commit(addr, rq.op())
    }

    /// As [`Self::check_commit`], of an address where there is to be none, or the other way round.
    #[inline(never)]
    fn check_odd_commit(&self, addr: u64, op: Op) -> Result {
        // It says where the data was written. The driver does not copy then.
        if op == Op::ZoneAppend {
            return Ok(());
        }
        self.check(addr, self.asks && op != Op::Read)
    }

    /// The server must have a buffer if the driver copies, unless it `may_be_missing`, and must not
    /// have one else.
    fn check(&self, addr: u64, may_be_missing: bool) -> Result {
        match (self.copies, addr) {
            (true, 0) if !may_be_missing => Err(EINVAL),
            (false, 1..) => Err(EINVAL),
            _ => Ok(()),
        }
    }

    /// What the `addr` of a command's SQE says. Other devices than those that register do not look.
    #[inline(always)]
    pub(crate) fn auto_reg(&self, sqe_addr: impl FnOnce() -> u64) -> Result<Option<AutoReg>> {
        if !self.registers {
            return Ok(None);
        }
        AutoReg::from_addr(sqe_addr()).map(Some)
    }
}

/// `struct ublk_auto_buf_reg`: where to register the data of a slot's next request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct AutoReg(
    /// As in the SQE: the index, and above that whether there is a fallback. To take that apart and
    /// put it together again was 10 instructions of a request.
    u32,
);

impl AutoReg {
    const FALLBACK: u32 = uapi::UBLK_AUTO_BUF_REG_FALLBACK << u16::BITS;

    pub(crate) fn new(index: u16, fallback: bool) -> Self {
        Self(u32::from(index) | if fallback { Self::FALLBACK } else { 0 })
    }

    /// Decodes an SQE's `addr`. Fails with [`EINVAL`] for bits that have no meaning.
    #[inline]
    fn from_addr(addr: u64) -> Result<Self> {
        if addr & !u64::from(Self::FALLBACK | u32::from(u16::MAX)) != 0 {
            return Err(EINVAL);
        }
        Ok(Self(addr as u32))
    }

    #[inline]
    pub(crate) fn index(self) -> u32 {
        self.0 & u32::from(u16::MAX)
    }

    /// Whether to tell the server if it can not be registered, rather than failing the request.
    #[inline]
    pub(crate) fn fallback(self) -> bool {
        self.0 & Self::FALLBACK != 0
    }

    /// The bits of the SQE's `addr` again, which the server finds in the descriptor.
    #[inline]
    pub(crate) fn addr(self) -> u64 {
        self.0.into()
    }
}

#[kunit_tests(ublk_rs_data_mode)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        let copy = DataMode::new(UBLK_F_NEED_GET_DATA);
        assert!(copy.copies && copy.asks && !copy.registers);
        assert!(!DataMode::new(0).asks);
        for flag in [
            UBLK_F_USER_COPY,
            UBLK_F_SUPPORT_ZERO_COPY,
            UBLK_F_AUTO_BUF_REG,
            UBLK_F_FUSED_CMD,
        ] {
            let mode = DataMode::new(flag | UBLK_F_NEED_GET_DATA);
            assert!(!mode.copies && !mode.asks);
            assert_eq!(mode.registers, flag == UBLK_F_AUTO_BUF_REG);
            assert_eq!(mode.reach, Reach::Any);
        }
    }

    #[test]
    fn what_is_done_with_the_data() {
        for (flags, handover, leaves) in [
            (0, Handover::Copy, false),
            (UBLK_F_USER_COPY, Handover::Describe, true),
            (UBLK_F_FUSED_CMD, Handover::Describe, true),
            (UBLK_F_AUTO_BUF_REG, Handover::Register, true),
            (UBLK_F_SHMEM_ZC, Handover::Other, false),
            (UBLK_F_USER_COPY | UBLK_F_SHMEM_ZC, Handover::Other, false),
            // What no secondary has brought is zeroed.
            (
                UBLK_F_FUSED_CMD | UBLK_F_UNPRIVILEGED_DEV,
                Handover::Describe,
                false,
            ),
        ] {
            let mode = DataMode::new(flags);
            assert_eq!((mode.handover, mode.leaves), (handover, leaves));
        }
    }

    #[test]
    fn distrusted_server_moves_data_by_commits() {
        let mode = |flags| DataMode::new(flags).check_reach();
        assert_eq!(mode(UBLK_F_FUSED_CMD), Ok(()));
        assert_eq!(mode(UBLK_F_UNPRIVILEGED_DEV), Ok(()));
        assert_eq!(mode(UBLK_F_FUSED_CMD | UBLK_F_UNPRIVILEGED_DEV), Err(EPERM));
    }

    #[test]
    fn addresses() {
        let copy = DataMode::new(0);
        assert_eq!(copy.check_fetch(0), Err(EINVAL));
        assert_eq!(copy.check_fetch(1), Ok(()));
        assert_eq!(copy.check_odd_commit(0, Op::Write), Err(EINVAL));
        let asks = DataMode::new(UBLK_F_NEED_GET_DATA);
        assert_eq!(asks.check_fetch(0), Ok(()));
        assert_eq!(asks.check_fetch(1), Ok(()));
        assert_eq!(asks.check_odd_commit(0, Op::Write), Ok(()));
        assert_eq!(asks.check_odd_commit(0, Op::Read), Err(EINVAL));
        let zero_copy = DataMode::new(UBLK_F_SUPPORT_ZERO_COPY);
        assert_eq!(zero_copy.check_fetch(0), Ok(()));
        assert_eq!(zero_copy.check_odd_commit(1, Op::Read), Err(EINVAL));
    }

    #[test]
    fn auto_reg() {
        let mode = DataMode::new(UBLK_F_AUTO_BUF_REG);
        assert_eq!(
            mode.auto_reg(|| 0x1_1234),
            Ok(Some(AutoReg::new(0x1234, true)))
        );
        assert_eq!(mode.auto_reg(|| 0x2_0000), Err(EINVAL));
        assert_eq!(mode.auto_reg(|| 1 << 24), Err(EINVAL));
        assert_eq!(mode.auto_reg(|| 1 << 63), Err(EINVAL));
        assert_eq!(DataMode::new(0).auto_reg(|| !0), Ok(None));
        let auto_reg = AutoReg::new(0x1234, true);
        assert_eq!((auto_reg.addr(), auto_reg.index()), (0x1_1234, 0x1234));
        assert!(auto_reg.fallback() && !AutoReg::new(u16::MAX, false).fallback());
    }
}
