// SPDX-License-Identifier: GPL-2.0

//! Entries of L1 and L2 tables.

/// The cluster is used by this entry only: it may be written.
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
/// It reads as zero, whatever its cluster has.
const ZERO: u64 = 1 << 0;
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// A piece of the image's file with a compressed cluster. It ends at the end of a sector at
/// the latest, somewhere in the last one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Compressed {
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// What an entry of an L2 table says of a cluster of the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Entry {
    /// It is not here, but in the backing file.
    Missing,
    /// It is zero, and may have a cluster.
    Zero(Option<Cluster>),
    Data(Cluster),
    Compressed(Compressed),
}

/// A cluster of the image's file. `at` is a multiple of the cluster, and not 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Cluster {
    pub(super) at: u64,
    /// Nobody else uses it.
    pub(super) own: bool,
}

/// An entry of a table that names a cluster; `Ok(None)` if there is none, `Err` if it can not be.
fn cluster(raw: u64, cluster_bits: u32) -> Result<Option<Cluster>, ()> {
    let (at, own) = (raw & OFFSET, raw & COPIED != 0);
    match at.trailing_zeros() >= cluster_bits {
        _ if raw & !(OFFSET | COPIED) != 0 => Err(()),
        true => Ok((at != 0).then_some(Cluster { at, own })),
        false => Err(()),
    }
}

/// An entry of the L1 table: the L2 table.
pub(super) fn l1(raw: u64, cluster_bits: u32) -> Result<Option<Cluster>, ()> {
    cluster(raw, cluster_bits)
}

/// An entry that names a cluster of our own.
pub(super) fn own(at: u64) -> u64 {
    at | COPIED
}

impl Entry {
    /// What an entry says, if that can be.
    pub(super) fn decode(raw: u64, cluster_bits: u32, version: u32) -> Result<Entry, ()> {
        if raw & COMPRESSED != 0 {
            // The more bits a cluster has, the more are needed to count sectors.
            let bits = 62 - (cluster_bits - 8);
            let offset = raw & ((1 << bits) - 1);
            let sectors = (raw & (COMPRESSED - 1)) >> bits;
            let len = (sectors + 1) * 512 - offset % 512;
            let end = offset.checked_add(len).filter(|end| i64::try_from(*end).is_ok());
            return match end {
                Some(_) if offset != 0 && raw & COPIED == 0 => {
                    Ok(Entry::Compressed(Compressed { offset, len }))
                }
                _ => Err(()),
            };
        }
        let zero = version >= 3 && raw & ZERO != 0;
        let plain = if zero { raw & !ZERO } else { raw };
        let cluster = cluster(plain, cluster_bits)?;
        Ok(match cluster {
            _ if zero => Entry::Zero(cluster),
            Some(cluster) => Entry::Data(cluster),
            None => Entry::Missing,
        })
    }

    /// The entry of a cluster that is zero without room for it. Version 3 only.
    pub(super) const NO_ROOM_ZERO: u64 = ZERO;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries() {
        let decode = |raw| Entry::decode(raw, 16, 3);
        assert_eq!(decode(0), Ok(Entry::Missing));
        assert_eq!(decode(1), Ok(Entry::Zero(None)));
        let (own, other) = (Cluster { at: 0x50000, own: true }, Cluster { at: 0x50000, own: false });
        assert_eq!(decode(COPIED | 0x50000), Ok(Entry::Data(own)));
        assert_eq!(decode(0x50000), Ok(Entry::Data(other)));
        assert_eq!(decode(0x50001), Ok(Entry::Zero(Some(other))));
        assert_eq!(super::own(0x50000), COPIED | 0x50000);
        assert_eq!(l1(COPIED | 0x50000, 16), Ok(Some(own)));
        for wrong in [0x50200, 0x50002, 1 << 56, 1 << 61 | 0x50000, COPIED | 0x8000] {
            assert_eq!(decode(wrong), Err(()), "{wrong:x}");
            assert_eq!(l1(wrong, 16), Err(()), "{wrong:x}");
        }
        // Version 2 has no zero clusters, L1 tables never.
        assert_eq!(Entry::decode(1, 16, 2), Err(()));
        assert_eq!(l1(1, 16), Err(()));
    }

    #[test]
    fn compressed_ones() {
        let decode = |raw| Entry::decode(COMPRESSED | raw, 16, 3);
        let found = |offset, len| Ok(Entry::Compressed(Compressed { offset, len }));
        assert_eq!(decode(0x50210), found(0x50210, 512 - 0x10));
        assert_eq!(decode(3 << 54 | 0x50210), found(0x50210, 2048 - 0x10));
        assert_eq!(decode(0), Err(()));
        assert_eq!(decode(COPIED | 0x50210), Err(()));
        let most = Entry::decode(!COPIED, 9, 3);
        assert_eq!(most, found((1 << 61) - 1, 1024 - 511));
        for bits in 9..=21 {
            // Never more than two clusters, whatever it says.
            match Entry::decode(COMPRESSED | (COMPRESSED - 1), bits, 3) {
                Ok(Entry::Compressed(found)) => assert!(found.len <= 2 << bits),
                other => panic!("{other:?}"),
            }
        }
    }
}
