// SPDX-License-Identifier: GPL-2.0

//! Whose device that is: the udev rules give the nodes to them.

use crate::{Failure, list::print};
use ublk_server::control;

/// The number of a device, by the name of one of its nodes.
fn number(node: &str) -> Option<u32> {
    let name = node.strip_prefix("/dev/").unwrap_or(node);
    let rest = name.strip_prefix("ublkc").or_else(|| name.strip_prefix("ublkb"))?;
    // A partition belongs to who has the disk.
    rest.split('p').next()?.parse().ok()
}

/// Print the user and the group, for udev.
pub(crate) fn print_owner(node: &str) -> Result<(), Failure> {
    let id = number(node).ok_or_else(|| Failure::new(format!("{node} is no node of a device")))?;
    let info = control::info(id).map_err(|e| Failure::of_device(id, &e))?;
    print(format_args!("{} {}\n", info.owner_uid, info.owner_gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(number("ublkc12"), Some(12));
        assert_eq!(number("/dev/ublkb3"), Some(3));
        assert_eq!(number("ublkb3p1"), Some(3));
        for wrong in ["sda", "ublk-control", "ublkc", "ublkb-1", "ublkcx"] {
            assert_eq!(number(wrong), None, "{wrong}");
        }
    }
}
