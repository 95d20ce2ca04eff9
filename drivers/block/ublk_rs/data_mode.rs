// SPDX-License-Identifier: GPL-2.0

//! How the data of a device's requests moves, and what the server's commands have to say about it.

use crate::uapi::*;
use kernel::{
    block::mq::Op,
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
}

impl DataMode {
    /// The mode of a device with the features `flags`.
    pub(crate) fn new(flags: u64) -> Self {
        const SERVER_MOVES_IT: u64 =
            UBLK_F_USER_COPY | UBLK_F_SUPPORT_ZERO_COPY | UBLK_F_AUTO_BUF_REG | UBLK_F_FUSED_CMD;
        let copies = flags & SERVER_MOVES_IT == 0;

        Self {
            copies,
            asks: copies && flags & UBLK_F_NEED_GET_DATA != 0,
            registers: flags & UBLK_F_AUTO_BUF_REG != 0,
            shares: flags & UBLK_F_SHMEM_ZC != 0,
            lends: flags & UBLK_F_FUSED_CMD != 0,
            reach: if flags & UBLK_F_FUSED_CMD != 0 && flags & UBLK_F_UNPRIVILEGED_DEV != 0 {
                Reach::Commit
            } else {
                Reach::Any
            },
        }
    }

    /// Whether a request needs no more than a description before the server gets it.
    #[inline]
    pub(crate) fn describes_only(self) -> bool {
        !self.copies && !self.registers && !self.shares
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

    /// Whether `addr` is right for the command that commits an `op`.
    pub(crate) fn check_commit(self, addr: u64, op: Op) -> Result {
        // It says where the data was written. The driver does not copy then.
        if op == Op::ZoneAppend {
            return Ok(());
        }
        self.check(addr, self.asks && op != Op::Read)
    }

    /// The server must have a buffer if the driver copies, unless it `may_be_missing`, and must not
    /// have one else.
    fn check(self, addr: u64, may_be_missing: bool) -> Result {
        match (self.copies, addr) {
            (true, 0) if !may_be_missing => Err(EINVAL),
            (false, 1..) => Err(EINVAL),
            _ => Ok(()),
        }
    }

    /// What the `addr` of a command's SQE says. Other devices than those that register do not look.
    pub(crate) fn auto_reg(self, sqe_addr: impl FnOnce() -> u64) -> Result<Option<AutoReg>> {
        if !self.registers {
            return Ok(None);
        }
        AutoReg::new(sqe_addr()).map(Some)
    }
}

/// `struct ublk_auto_buf_reg`: where to register the data of a slot's next request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct AutoReg {
    pub(crate) index: u16,
    /// Tell the server if it can not be registered, rather than failing the request.
    pub(crate) fallback: bool,
}

impl AutoReg {
    /// Decodes an SQE's `addr`. Fails with [`EINVAL`] for bits that have no meaning.
    fn new(addr: u64) -> Result<Self> {
        let [i0, i1, flags, reserved @ ..] = addr.to_le_bytes();

        if u32::from(flags) & !uapi::UBLK_AUTO_BUF_REG_FALLBACK != 0 || reserved != [0; 5] {
            return Err(EINVAL);
        }
        Ok(Self {
            index: u16::from_le_bytes([i0, i1]),
            fallback: flags != 0,
        })
    }

    /// The bits of the SQE's `addr` again, which the server finds in the descriptor.
    pub(crate) fn addr(self) -> u64 {
        u64::from(self.index) | u64::from(self.fallback) << 16
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
        assert_eq!(copy.check_commit(0, Op::Write), Err(EINVAL));
        let asks = DataMode::new(UBLK_F_NEED_GET_DATA);
        assert_eq!(asks.check_fetch(0), Ok(()));
        assert_eq!(asks.check_fetch(1), Ok(()));
        assert_eq!(asks.check_commit(0, Op::Write), Ok(()));
        assert_eq!(asks.check_commit(0, Op::Read), Err(EINVAL));
        let zero_copy = DataMode::new(UBLK_F_SUPPORT_ZERO_COPY);
        assert_eq!(zero_copy.check_fetch(0), Ok(()));
        assert_eq!(zero_copy.check_commit(1, Op::Read), Err(EINVAL));
    }

    #[test]
    fn auto_reg() {
        let mode = DataMode::new(UBLK_F_AUTO_BUF_REG);
        assert_eq!(
            mode.auto_reg(|| 0x1_1234),
            Ok(Some(AutoReg {
                index: 0x1234,
                fallback: true
            }))
        );
        assert_eq!(mode.auto_reg(|| 0x2_0000), Err(EINVAL));
        assert_eq!(mode.auto_reg(|| 1 << 24), Err(EINVAL));
        assert_eq!(mode.auto_reg(|| 1 << 63), Err(EINVAL));
        assert_eq!(DataMode::new(0).auto_reg(|| !0), Ok(None));
        assert_eq!(AutoReg::new(0x1_1234).map(AutoReg::addr), Ok(0x1_1234));
    }
}
