// SPDX-License-Identifier: GPL-2.0

//! Compressed clusters.

use super::header::Compression;
use miniz_oxide::inflate::decompress_slice_iter_to_slice;
use ublk_server::Errno;

/// Decompress a cluster, all of it. What is behind its data does not matter.
pub(super) fn inflate(how: Compression, from: &[u8], to: &mut [u8]) -> Result<(), Errno> {
    match how {
        Compression::Deflate => {
            let len = decompress_slice_iter_to_slice(to, std::iter::once(from), false, true);
            if len == Ok(to.len()) { Ok(()) } else { Err(Errno::EIO) }
        }
        // Refused when the image is opened.
        Compression::Zstd => Err(Errno::EOPNOTSUPP),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_ones_only() {
        let data: Vec<u8> = (0..4096u32).map(|i| (i / 100).to_be_bytes()[3]).collect();
        let mut packed = miniz_oxide::deflate::compress_to_vec(&data, 6);
        let len = packed.len();
        packed.resize(1024, 0xaa);
        let mut out = vec![0; 4096];
        let how = Compression::Deflate;
        assert_eq!(inflate(how, &packed, &mut out), Ok(()));
        assert!(out == data);
        assert_eq!(inflate(how, &packed, &mut [0; 4095]), Err(Errno::EIO));
        assert_eq!(inflate(how, &packed, &mut [0; 4097]), Err(Errno::EIO));
        assert_eq!(inflate(how, &packed[..len - 1], &mut out), Err(Errno::EIO));
        assert_eq!(inflate(how, &[0xff; 512], &mut out), Err(Errno::EIO));
    }
}
