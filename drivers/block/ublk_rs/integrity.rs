// SPDX-License-Identifier: GPL-2.0

//! What the parameters of `UBLK_F_INTEGRITY` mean: how the metadata of a disk looks.

use crate::uapi::*;
use kernel::{
    block::mq::{
        IntegrityChecksum,
        IntegrityProfile, //
    },
    prelude::*,
    uapi, //
};

/// The flags that have a meaning.
const FLAGS_KNOWN: u32 = uapi::LBMD_PI_CAP_INTEGRITY | uapi::LBMD_PI_CAP_REFTAG;

impl ParamIntegrity {
    /// Checks the parameters of a disk with blocks of `1 << block_shift` bytes.
    pub(crate) fn validate(&self, block_shift: u8) -> Result {
        if self.interval_exp > block_shift {
            return Err(EINVAL);
        }
        self.profile().map(|_| ())
    }

    /// How the metadata looks. Fails with [`EINVAL`] if that makes no sense.
    pub(crate) fn profile(&self) -> Result<IntegrityProfile> {
        if self.flags & !FLAGS_KNOWN != 0 {
            return Err(EINVAL);
        }
        let checksum = match u32::from(self.csum_type) {
            uapi::LBMD_PI_CSUM_NONE => IntegrityChecksum::None,
            uapi::LBMD_PI_CSUM_IP => IntegrityChecksum::Ip,
            uapi::LBMD_PI_CSUM_CRC16_T10DIF => IntegrityChecksum::Crc,
            uapi::LBMD_PI_CSUM_CRC64_NVME => IntegrityChecksum::Crc64,
            _ => return Err(EINVAL),
        };
        let profile = IntegrityProfile::new(
            checksum,
            self.metadata_size,
            self.pi_offset,
            self.interval_exp,
        )?
        .ref_tag(self.flags & uapi::LBMD_PI_CAP_REFTAG != 0)?
        .device_capable(self.flags & uapi::LBMD_PI_CAP_INTEGRITY != 0)
        .tag_size(self.tag_size)
        // The data is copied, so it may lie anywhere.
        .split_intervals(true);
        Ok(profile)
    }

    /// Most segments of the metadata of a request.
    pub(crate) fn max_segments(&self) -> u16 {
        match self.max_integrity_segments {
            0 => u16::MAX,
            max => max,
        }
    }
}

#[cfg(CONFIG_BLK_DEV_INTEGRITY)]
#[kunit_tests(ublk_rs_integrity)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut ParamIntegrity)) -> Result {
        let mut params = ParamIntegrity {
            metadata_size: 64,
            pi_offset: 48,
            interval_exp: 9,
            ..Default::default()
        };
        change(&mut params);
        params.validate(12)
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert_eq!(check(|_| ()), Ok(()));
        assert_eq!(check(|p| p.flags = 4), Err(EINVAL));
        assert_eq!(check(|p| p.flags = 1 << 31), Err(EINVAL));
        assert_eq!(check(|p| p.metadata_size = 0), Err(EINVAL));
        assert_eq!(check(|p| p.interval_exp = 0), Err(EINVAL));
        assert_eq!(check(|p| p.interval_exp = 8), Err(EINVAL));
        assert_eq!(check(|p| p.interval_exp = 12), Ok(()));
        assert_eq!(check(|p| p.interval_exp = 13), Err(EINVAL));
        assert_eq!(check(|p| p.interval_exp = 255), Err(EINVAL));
        // Reference tags are a part of the tuple.
        assert_eq!(check(|p| p.flags = 2), Err(EINVAL));
    }

    #[test]
    fn checksums_and_their_tuples() {
        let set = |ty, offset| {
            check(|p| {
                p.flags = 3;
                p.csum_type = ty;
                p.pi_offset = offset;
            })
        };
        assert_eq!(set(1, 56), Ok(()));
        assert_eq!(set(1, 57), Err(EINVAL));
        assert_eq!(set(2, 56), Ok(()));
        assert_eq!(set(2, 255), Err(EINVAL));
        assert_eq!(set(3, 0), Err(EINVAL));
        assert_eq!(set(4, 48), Ok(()));
        assert_eq!(set(4, 49), Err(EINVAL));
        assert_eq!(set(5, 0), Err(EINVAL));
    }

    #[test]
    fn no_limit_of_segments() {
        assert_eq!(ParamIntegrity::default().max_segments(), u16::MAX);
        let one = ParamIntegrity {
            max_integrity_segments: 1,
            ..Default::default()
        };
        assert_eq!(one.max_segments(), 1);
    }
}
