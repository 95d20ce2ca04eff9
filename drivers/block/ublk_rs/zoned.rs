// SPDX-License-Identifier: GPL-2.0

//! What the parameters of `UBLK_F_ZONED` mean.

use crate::uapi::*;
use kernel::{
    block::mq::ZonedLimits,
    prelude::*, //
};

impl ParamBasic {
    /// Checks what the basic parameters of a zoned disk have to say: the size of a zone.
    pub(crate) fn validate_zone_size(&self) -> Result {
        if !self.chunk_sectors.is_power_of_two() {
            return Err(EINVAL);
        }
        Ok(())
    }

    /// How many whole zones a zoned disk has.
    fn nr_zones(&self) -> u64 {
        self.dev_sectors
            .checked_div(self.chunk_sectors.into())
            .unwrap_or(0)
    }
}

impl ParamZoned {
    /// Checks the parameters of a zoned disk with these basic ones.
    pub(crate) fn validate(&self, basic: &ParamBasic) -> Result {
        let nr_zones = basic.nr_zones();
        let valid = self.max_zone_append_sectors != 0
            && u64::from(self.max_active_zones) <= nr_zones
            && u64::from(self.max_open_zones) <= nr_zones;
        valid.then_some(()).ok_or(EINVAL)
    }

    /// What the block layer has to know.
    pub(crate) fn limits(&self) -> ZonedLimits {
        ZonedLimits {
            max_open_zones: self.max_open_zones,
            max_active_zones: self.max_active_zones,
            max_append_sectors: self.max_zone_append_sectors,
        }
    }
}

#[kunit_tests(ublk_rs_zoned)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_within_the_disk() {
        let basic = ParamBasic {
            chunk_sectors: 1024,
            dev_sectors: 4 * 1024 + 5,
            ..Default::default()
        };
        let check = |open, active, append| {
            ParamZoned {
                max_open_zones: open,
                max_active_zones: active,
                max_zone_append_sectors: append,
                ..Default::default()
            }
            .validate(&basic)
        };
        assert_eq!(check(0, 0, 1), Ok(()));
        assert_eq!(check(4, 4, u32::MAX), Ok(()));
        assert_eq!(check(5, 0, 1), Err(EINVAL));
        assert_eq!(check(0, 5, 1), Err(EINVAL));
        assert_eq!(check(1, 1, 0), Err(EINVAL));
    }

    #[test]
    fn zone_sizes() {
        let check = |chunk_sectors| {
            ParamBasic {
                chunk_sectors,
                ..Default::default()
            }
            .validate_zone_size()
        };
        assert_eq!(check(0), Err(EINVAL));
        assert_eq!(check(3), Err(EINVAL));
        assert_eq!(check(1 << 31), Ok(()));
    }
}
