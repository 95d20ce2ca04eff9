// SPDX-License-Identifier: GPL-2.0

//! Sizes, as people write them.

use std::{fmt, str::FromStr};

/// A size in bytes, above 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Size(pub(crate) u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
            "" => 0,
            "K" => 10,
            "M" => 20,
            "G" => 30,
            "T" => 40,
            _ => return Err("a number, and K, M, G or T".into()),
        };
        let number: u64 = digits.parse().map_err(|_| "a number, and K, M, G or T")?;
        let size = number.checked_mul(1 << shift).filter(|size| *size <= i64::MAX.cast_unsigned());
        match size {
            Some(0) => Err("more than nothing".into()),
            Some(size) => Ok(Size(size)),
            None => Err("that is too large".into()),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_people_write_them() {
        assert_eq!("4096".parse(), Ok(Size(4096)));
        assert_eq!("3k".parse(), Ok(Size(3072)));
        assert_eq!("2T".parse(), Ok(Size(2 << 40)));
        for wrong in ["", "0", "M", "1Q", "-1", "1.5G", "8388608T", "99999999999999999999"] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong}");
        }
    }
}
