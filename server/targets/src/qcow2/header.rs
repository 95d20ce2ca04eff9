// SPDX-License-Identifier: GPL-2.0

//! The header of an image. Nothing in it is trusted: what comes out is checked.

use std::{io, ops::Range};

/// Tables that are kept in memory as a whole: no image needs larger ones.
const MOST_L1: u64 = 32 << 20;
const MOST_REFCOUNT_TABLE: u64 = 8 << 20;

/// What the incompatible features are, by their bits.
const FEATURES: [&str; 5] =
    ["dirty", "corrupt", "external data file", "compression type", "extended L2 entries"];
const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const COMPRESSION_TYPE: u64 = 1 << 3;

/// Where the automatically cleared features are in the file.
pub(super) const AUTOCLEAR_OFFSET: u64 = 88;
/// Where the offset of the refcount table is, with the number of its clusters behind it.
pub(super) const REFCOUNT_TABLE_FIELDS: u64 = 48;

/// How clusters are compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Compression {
    Deflate,
    Zstd,
}

/// What kind of file another image builds upon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Format {
    Raw,
    Qcow2,
}

/// The file that has what is not in this one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct BackingFile {
    pub(super) name: String,
    pub(super) format: Format,
}

/// A header, checked.
///
/// # Invariants
///
/// `cluster_bits` is 9 to 21, `refcount_order` at most 6. `l1` and `refcount_table` begin at a
/// cluster, end below 2^63, and are not larger than the limits above. `l1` covers `size`.
#[derive(Clone, Debug)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    /// Of the disk, in bytes: a multiple of 512, above 0.
    pub(super) size: u64,
    /// Where the L1 table is, as far as `size` needs it.
    pub(super) l1: Range<u64>,
    pub(super) refcount_table: Range<u64>,
    pub(super) refcount_order: u32,
    pub(super) autoclear: u64,
    pub(super) compression: Compression,
    pub(super) backing: Option<BackingFile>,
    /// Why it must not be written.
    pub(super) no_writes: Option<&'static str>,
}

fn bad(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

fn refused(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, why.into())
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> io::Result<[u8; N]> {
    let end = at.checked_add(N);
    let part = end.and_then(|end| bytes.get(at..end)).and_then(|part| part.try_into().ok());
    part.ok_or_else(|| bad("the header is cut off"))
}

fn be32(bytes: &[u8], at: usize) -> io::Result<u32> {
    Ok(u32::from_be_bytes(array(bytes, at)?))
}

fn be64(bytes: &[u8], at: usize) -> io::Result<u64> {
    Ok(u64::from_be_bytes(array(bytes, at)?))
}

/// How much of the beginning of a file a header may take.
pub(super) const MOST_BYTES: usize = 2 << 20;

impl Header {
    /// Read the header at the beginning of a file, of which this is the first cluster at least
    /// (or all).
    pub(super) fn parse(bytes: &[u8]) -> io::Result<Header> {
        if be32(bytes, 0).ok() != Some(0x5146_49fb) {
            return Err(bad("is no qcow2 image"));
        }
        let version = be32(bytes, 4)?;
        if version != 2 && version != 3 {
            return Err(refused(format!("is qcow2 of version {version}; only 2 and 3 are known")));
        }
        let cluster_bits = be32(bytes, 20)?;
        if !(9..=21).contains(&cluster_bits) {
            return Err(bad(format!("has clusters of 2^{cluster_bits} bytes; 2^9 to 2^21 are allowed")));
        }
        let cluster = 1u64 << cluster_bits;
        let v3 = |at| if version == 3 { be64(bytes, at) } else { Ok(0) };
        let (incompatible, autoclear) = (v3(72)?, v3(88)?);
        let (refcount_order, len) =
            if version == 3 { (be32(bytes, 96)?, be32(bytes, 100)?) } else { (4, 72) };
        if version == 3 && (len < 104 || !len.is_multiple_of(8) || u64::from(len) > cluster) {
            return Err(bad(format!("has a header of {len} bytes")));
        }
        let extensions = Extensions::parse(bytes, len as usize, cluster, be64(bytes, 8)?)?;
        let known = DIRTY | CORRUPT | COMPRESSION_TYPE;
        if incompatible & !known != 0 {
            let names: Vec<_> = (0..64u8)
                .filter(|bit| incompatible & !known & 1 << bit != 0)
                .map(|bit| extensions.feature(bit))
                .collect();
            return Err(refused(format!("needs what is not supported: {}", names.join(", "))));
        }
        match be32(bytes, 32)? {
            0 => {}
            1 => return Err(refused("is encrypted (AES), which is not supported")),
            2 => return Err(refused("is encrypted (LUKS), which is not supported")),
            n => return Err(refused(format!("is encrypted (method {n}), which is not supported"))),
        }
        let kind = if version == 3 && len > 104 { array::<1>(bytes, 104)?[0] } else { 0 };
        let compression = match (kind, incompatible & COMPRESSION_TYPE != 0) {
            (0, false) => Compression::Deflate,
            (1, true) => Compression::Zstd,
            (0 | 1, _) => return Err(bad("contradicts itself about its compression")),
            (n, _) => return Err(refused(format!("is compressed by a method that is not known: {n}"))),
        };
        if refcount_order > 6 {
            return Err(bad(format!("has refcounts of 2^{refcount_order} bits")));
        }
        let size = be64(bytes, 24)?;
        if size == 0 || !size.is_multiple_of(512) || i64::try_from(size).is_err() {
            return Err(bad(format!("has a disk of {size} bytes, which is no multiple of 512 above 0")));
        }
        // Each entry of the L1 table is for a table of a cluster with entries of 8 bytes.
        let entries = size.div_ceil(1 << (2 * cluster_bits - 3));
        if u64::from(be32(bytes, 36)?) < entries {
            return Err(bad("has an L1 table that is too small for the disk"));
        }
        let table = |what: &str, at: usize, len: Option<u64>, most: u64| -> io::Result<Range<u64>> {
            let start = be64(bytes, at)?;
            let len = len.filter(|len| (1..=most).contains(len));
            let len = len.ok_or_else(|| bad(format!("has {what} that is empty or too large")))?;
            let end = start.checked_add(len).filter(|end| i64::try_from(*end).is_ok());
            match end {
                Some(end) if start >= cluster && start.is_multiple_of(cluster) => Ok(start..end),
                _ => Err(bad(format!("has {what} at {start}, where it can not be"))),
            }
        };
        let l1 = table("an L1 table", 40, entries.checked_mul(8), MOST_L1)?;
        let clusters = u64::from(be32(bytes, 56)?);
        let refcount_table =
            table("a refcount table", 48, clusters.checked_mul(cluster), MOST_REFCOUNT_TABLE)?;
        let no_writes = if incompatible & CORRUPT != 0 {
            Some(
                "is marked as corrupt: only --read-only is possible before it is repaired (qemu-img check -r all)",
            )
        } else if incompatible & DIRTY != 0 {
            Some("was not closed: only --read-only is possible before it is repaired (qemu-img check -r all)")
        } else {
            None
        };
        let backing = backing_file(bytes, cluster, extensions.format)?;
        // INVARIANT: all of this was checked.
        Ok(Header {
            version,
            cluster_bits,
            size,
            l1,
            refcount_table,
            refcount_order,
            autoclear,
            compression,
            backing,
            no_writes,
        })
    }

    pub(super) fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }
}

fn backing_file(bytes: &[u8], cluster: u64, format: Option<String>) -> io::Result<Option<BackingFile>> {
    let (offset, len) = (be64(bytes, 8)?, be32(bytes, 16)?);
    if offset == 0 || len == 0 {
        return Ok(None);
    }
    let end = offset.checked_add(len.into()).filter(|end| len <= 1023 && *end <= cluster);
    let range = end.and_then(|end| Some(usize::try_from(offset).ok()?..usize::try_from(end).ok()?));
    let name = range.and_then(|range| bytes.get(range)).and_then(|name| str::from_utf8(name).ok());
    let Some(name) = name.filter(|name| !name.contains('\0')) else {
        return Err(bad("has a backing file with a name that can not be"));
    };
    let format = match format.as_deref() {
        Some("raw") => Format::Raw,
        Some("qcow2") => Format::Qcow2,
        Some(other) => {
            return Err(refused(format!(
                "has a backing file of format {other:?}; raw and qcow2 are supported"
            )));
        }
        // To guess is to let whoever has written a raw disk choose which files we read.
        None => {
            return Err(refused(
                "does not say of which format its backing file is (qemu-img rebase -u -F raw|qcow2 -b FILE)",
            ));
        }
    };
    // As qemu has it: what is before a colon is a protocol, unless it has a slash.
    let path = name.strip_prefix("file:").unwrap_or(name);
    if path.split('/').next().is_some_and(|first| first.contains(':')) {
        return Err(refused(format!("has the backing file {name:?}; only files are supported")));
    }
    Ok(Some(BackingFile { name: path.to_owned(), format }))
}

#[derive(Default)]
struct Extensions {
    format: Option<String>,
    /// Names that the image has itself for incompatible features.
    names: Vec<(u8, String)>,
}

impl Extensions {
    fn parse(bytes: &[u8], from: usize, cluster: u64, backing_offset: u64) -> io::Result<Extensions> {
        const END: u32 = 0;
        const FORMAT: u32 = 0xe279_2aca;
        const NAMES: u32 = 0x6803_f857;
        let end = if backing_offset == 0 { cluster } else { cluster.min(backing_offset) };
        let end = usize::try_from(end).map_or(bytes.len(), |end| end.min(bytes.len()));
        let mut all = Extensions::default();
        let mut at = from;
        while at + 8 <= end {
            let (kind, len) = (be32(bytes, at)?, be32(bytes, at + 4)? as usize);
            at += 8;
            let data = at.checked_add(len).filter(|to| *to <= end).and_then(|to| bytes.get(at..to));
            let Some(data) = data else { return Err(bad("has a header extension without an end")) };
            match kind {
                END => break,
                FORMAT => all.format = Some(String::from_utf8_lossy(data).into_owned()),
                NAMES => {
                    for entry in data.chunks_exact(48).filter(|entry| entry[0] == 0) {
                        let name = entry[2..].split(|byte| *byte == 0).next().unwrap_or(&[]);
                        all.names.push((entry[1], String::from_utf8_lossy(name).into_owned()));
                    }
                }
                // The others are about what we refuse, or may be ignored.
                _ => {}
            }
            at += len.next_multiple_of(8);
        }
        Ok(all)
    }

    fn feature(&self, bit: u8) -> String {
        if let Some(name) = FEATURES.get(usize::from(bit)) {
            return (*name).to_owned();
        }
        let own = self.names.iter().find(|(of, _)| *of == bit);
        own.map_or_else(|| format!("feature {bit}"), |(_, name)| format!("{name:?}"))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The header of an image of 1 GiB, as qemu-img makes it.
    fn header(version: u32) -> Vec<u8> {
        let mut bytes = vec![0; 65536];
        let mut set = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        set(0, b"QFI\xfb");
        set(4, &version.to_be_bytes());
        set(20, &16u32.to_be_bytes());
        set(24, &(1u64 << 30).to_be_bytes());
        set(36, &2u32.to_be_bytes());
        set(40, &0x30000u64.to_be_bytes());
        set(48, &0x10000u64.to_be_bytes());
        set(56, &1u32.to_be_bytes());
        if version == 3 {
            set(96, &4u32.to_be_bytes());
            set(100, &112u32.to_be_bytes());
        }
        bytes
    }

    fn with(changes: &[(usize, &[u8])]) -> io::Result<Header> {
        let mut bytes = header(3);
        for (at, value) in changes {
            bytes[*at..*at + value.len()].copy_from_slice(value);
        }
        Header::parse(&bytes)
    }

    fn why(changes: &[(usize, &[u8])]) -> String {
        with(changes).unwrap_err().to_string()
    }

    #[test]
    fn good_ones() {
        for version in [2, 3] {
            let header = Header::parse(&header(version)).unwrap();
            assert_eq!((header.version, header.cluster(), header.size), (version, 65536, 1 << 30));
            assert_eq!((header.l1, header.refcount_table), (0x30000..0x30010, 0x10000..0x20000));
            assert_eq!((header.refcount_order, header.backing, header.no_writes), (4, None, None));
        }
        let zstd = with(&[(79, &[8]), (104, &[1])]).unwrap();
        assert_eq!(zstd.compression, Compression::Zstd);
    }

    #[test]
    fn what_is_refused_has_a_name() {
        assert!(why(&[(0, b"x")]).contains("no qcow2"));
        assert!(why(&[(7, &[1])]).contains("version 1"));
        assert!(why(&[(79, &[4])]).contains("external data file"));
        assert!(why(&[(79, &[16])]).contains("extended L2"));
        assert!(why(&[(72, &[0x80])]).contains("feature 63"));
        let name = [&[0x68, 0x03, 0xf8, 0x57, 0, 0, 0, 48, 0, 63][..], b"spoons"].concat();
        assert!(why(&[(72, &[0x80]), (112, &name)]).contains("spoons"));
        assert!(why(&[(35, &[1])]).contains("AES"));
        assert!(why(&[(35, &[2])]).contains("LUKS"));
        assert!(why(&[(104, &[7]), (79, &[8])]).contains("not known: 7"));
        assert!(why(&[(104, &[1])]).contains("contradicts"));
        for (bit, word) in [(1, "not closed"), (2, "corrupt")] {
            assert!(with(&[(79, &[bit])]).unwrap().no_writes.unwrap().contains(word));
        }
    }

    #[test]
    fn what_can_not_be() {
        assert!(why(&[(23, &[8])]).contains("2^8"));
        assert!(why(&[(23, &[22])]).contains("2^22"));
        assert!(why(&[(31, &[1])]).contains("no multiple of 512"));
        assert!(why(&[(24, &[0xff])]).contains("no multiple of 512"));
        assert!(why(&[(27, &[0xff])]).contains("too small"));
        assert!(why(&[(39, &[1])]).contains("too small"));
        assert!(why(&[(40, &[0xff])]).contains("where it can not be"));
        assert!(why(&[(47, &[1])]).contains("where it can not be"));
        assert!(why(&[(48, &[0xff; 8])]).contains("where it can not be"));
        assert!(why(&[(56, &[0xff])]).contains("too large"));
        assert!(why(&[(59, &[0])]).contains("empty"));
        assert!(why(&[(99, &[7])]).contains("2^7 bits"));
        assert!(why(&[(103, &[8])]).contains("header of 8"));
        assert!(why(&[(112, &[1; 16])]).contains("without an end"));
        let bytes = header(3);
        for len in 0..112 {
            assert!(Header::parse(&bytes[..len]).is_err() || len >= 105, "{len}");
        }
    }

    #[test]
    fn backing_files() {
        let format = |name: &str| {
            let len = u8::try_from(name.len()).unwrap();
            let mut bytes = vec![0xe2, 0x79, 0x2a, 0xca, 0, 0, 0, len];
            bytes.extend(name.bytes());
            bytes
        };
        let parse = |name: &str, kind: &str| {
            let len = u32::try_from(name.len()).unwrap().to_be_bytes();
            with(&[(112, &format(kind)), (14, &[2, 0]), (16, &len), (512, name.as_bytes())])
        };
        let got = parse("../base.img", "raw").unwrap().backing;
        assert_eq!(got, Some(BackingFile { name: "../base.img".into(), format: Format::Raw }));
        assert_eq!(parse("file:a", "qcow2").unwrap().backing.unwrap().name, "a");
        assert_eq!(parse("./a:b", "qcow2").unwrap().backing.unwrap().name, "./a:b");
        let why = |name, kind| parse(name, kind).unwrap_err().to_string();
        assert!(why("nbd://host", "raw").contains("only files"));
        assert!(why("json:{}", "raw").contains("only files"));
        assert!(why("a", "vmdk").contains("vmdk"));
        assert!(why("a\0b", "raw").contains("can not be"));
        let none = with(&[(14, &[2, 0]), (19, &[1]), (512, b"a")]).unwrap_err().to_string();
        assert!(none.contains("of which format"));
        assert!(with(&[(112, &format("raw")), (8, &[0xff; 8]), (19, &[1])]).is_err());
        assert!(with(&[(112, &format("raw")), (14, &[2, 0]), (16, &[0xff; 4])]).is_err());
    }
}
