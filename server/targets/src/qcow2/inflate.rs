// SPDX-License-Identifier: GPL-2.0

//! Compressed clusters.

use super::header::Compression;
use miniz_oxide::inflate::decompress_slice_iter_to_slice;
use ruzstd::decoding::StreamingDecoder;
use std::io::Read;
use ublk_server::Errno;

/// How much memory zstd may ask for: four times the largest cluster.
const MOST_WINDOW: u64 = 8 << 20;

/// Decompress a cluster, all of it. What is behind its data does not matter.
pub(super) fn inflate(how: Compression, from: &[u8], to: &mut [u8]) -> Result<(), Errno> {
    match how {
        Compression::Deflate => {
            let len = decompress_slice_iter_to_slice(to, std::iter::once(from), false, true);
            if len == Ok(to.len()) { Ok(()) } else { Err(Errno::EIO) }
        }
        Compression::Zstd => {
            let decoder = StreamingDecoder::new_with_max_window_size(from, MOST_WINDOW);
            Ok(decoder.map_err(|_| Errno::EIO)?.read_exact(to).map_err(|_| Errno::EIO)?)
        }
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

    #[test]
    fn zstd() {
        let data: Vec<u8> = (0..4096u32).map(|i| (i / 100).to_be_bytes()[3]).collect();
        let level = ruzstd::encoding::CompressionLevel::Fastest;
        let mut packed = ruzstd::encoding::compress_to_vec(&data[..], level);
        let len = packed.len();
        packed.resize(4096, 0xaa);
        let mut out = vec![0; 4096];
        let how = Compression::Zstd;
        assert_eq!(inflate(how, &packed, &mut out), Ok(()));
        assert!(out == data);
        assert_eq!(inflate(how, &packed, &mut [0; 4097]), Err(Errno::EIO));
        assert_eq!(inflate(how, &packed[..len / 2], &mut out), Err(Errno::EIO));
        assert_eq!(inflate(how, &[0xff; 512], &mut out), Err(Errno::EIO));
        // A frame that wants 2 GiB to look back.
        packed[4] &= !0x20;
        packed[5] = 21 << 3;
        assert_eq!(inflate(how, &packed, &mut out), Err(Errno::EIO));
    }
}
