// SPDX-License-Identifier: GPL-2.0

//! The beginning of a conversation: fixed newstyle, and `NBD_OPT_GO`. What the server says is
//! not trusted: all lengths and counts have a bound.

use super::wire::Flags;
use std::io::{self, Read, Write};

/// What a server has for us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Export {
    pub(crate) size: u64,
    pub(crate) flags: Flags,
    pub(crate) blocks: Blocks,
}

/// The sizes of requests: multiples of `smallest`, if possible of `preferred`, and with no
/// more data than `largest`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Blocks {
    pub(crate) smallest: u32,
    pub(crate) preferred: u32,
    pub(crate) largest: u32,
}

/// What all servers can do that do not say.
const ORDINARY: Blocks = Blocks { smallest: 512, preferred: 4096, largest: 32 << 20 };

const MAGIC: u64 = u64::from_be_bytes(*b"NBDMAGIC");
const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
const OLD_MAGIC: u64 = 0x0000_4202_8186_1253;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

const FIXED_NEWSTYLE: u16 = 1 << 0;
const NO_ZEROES: u16 = 1 << 1;

const OPTION_GO: u32 = 7;

const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const REPLY_ERROR: u32 = 1 << 31;

const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;

/// So long is a reply at most, of which there are not more than so many.
const LONGEST_REPLY: u32 = 16 << 10;
const MOST_REPLIES: usize = 64;

/// How much of what a server says of an error is told.
const LONGEST_WORD: usize = 200;

fn wrong(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

fn read<const N: usize>(peer: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    peer.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn read16(peer: &mut impl Read) -> io::Result<u16> {
    Ok(u16::from_be_bytes(read(peer)?))
}

fn read32(peer: &mut impl Read) -> io::Result<u32> {
    Ok(u32::from_be_bytes(read(peer)?))
}

fn read64(peer: &mut impl Read) -> io::Result<u64> {
    Ok(u64::from_be_bytes(read(peer)?))
}

/// What a server says of an error, for somebody who reads it on a terminal.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST_WORD)]);
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn refused(code: u32, said: &[u8]) -> io::Error {
    let why = match code & !REPLY_ERROR {
        1 => "the server is too old: it does not know NBD_OPT_GO",
        2 => "the server does not allow it",
        3 | 9 => "the server does not understand the request for the export",
        5 => "the server wants TLS, which is not there",
        6 => "the server has no such export",
        7 => "the server is shutting down",
        8 => "the server wants other block sizes",
        _ => "the server refuses",
    };
    let said = printable(said);
    let colon = if said.is_empty() { "" } else { ": " };
    wrong(format!("{why}{colon}{said}"))
}

/// Greet the server, and ask for an export. When this is done, requests follow.
pub(crate) fn handshake(peer: &mut (impl Read + Write), export: &str) -> io::Result<Export> {
    if read64(peer)? != MAGIC {
        return Err(wrong("that is no NBD server"));
    }
    match read64(peer)? {
        OPTION_MAGIC => {}
        OLD_MAGIC => return Err(wrong("the server is too old: it has no options")),
        _ => return Err(wrong("that is no NBD server")),
    }
    let offered = read16(peer)?;
    if offered & FIXED_NEWSTYLE == 0 {
        return Err(wrong("the server is too old: it is not \"fixed newstyle\""));
    }
    peer.write_all(&u32::from(offered & (FIXED_NEWSTYLE | NO_ZEROES)).to_be_bytes())?;
    peer.write_all(&go(export)?)?;
    let (mut found, mut blocks) = (None, ORDINARY);
    for _ in 0..MOST_REPLIES {
        let (code, data) = reply(peer)?;
        match code {
            REPLY_ACK => {
                let (size, flags) =
                    found.ok_or_else(|| wrong("the server does not say what the export is"))?;
                return check(Export { size, flags, blocks });
            }
            REPLY_INFO => info(&data, &mut found, &mut blocks)?,
            code if code & REPLY_ERROR != 0 => return Err(refused(code, &data)),
            _ => return Err(wrong("the server says what nobody has asked for")),
        }
    }
    Err(wrong("the server says too much"))
}

/// `NBD_OPT_GO`, with the wish to know about blocks.
fn go(export: &str) -> io::Result<Vec<u8>> {
    let len = u32::try_from(export.len()).map_err(io::Error::other)?;
    let mut bytes = Vec::new();
    bytes.extend(OPTION_MAGIC.to_be_bytes());
    bytes.extend(OPTION_GO.to_be_bytes());
    bytes.extend((4 + len + 2 + 2).to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes.extend(export.as_bytes());
    bytes.extend(1u16.to_be_bytes());
    bytes.extend(INFO_BLOCK_SIZE.to_be_bytes());
    Ok(bytes)
}

fn reply(peer: &mut impl Read) -> io::Result<(u32, Vec<u8>)> {
    if read64(peer)? != OPTION_REPLY_MAGIC || read32(peer)? != OPTION_GO {
        return Err(wrong("the server does not answer what was asked for"));
    }
    let code = read32(peer)?;
    let len = read32(peer)?;
    if len > LONGEST_REPLY {
        return Err(wrong("the server says too much"));
    }
    let mut data = vec![0; len as usize];
    peer.read_exact(&mut data)?;
    Ok((code, data))
}

/// A reply with something about the export. What we do not know is ignored.
fn info(mut data: &[u8], found: &mut Option<(u64, Flags)>, blocks: &mut Blocks) -> io::Result<()> {
    let data = &mut data;
    let short = |_| wrong("what the server says has the wrong length");
    match read16(data).map_err(short)? {
        INFO_EXPORT if data.len() == 10 => *found = Some((read64(data)?, Flags(read16(data)?))),
        INFO_BLOCK_SIZE if data.len() == 12 => {
            let (smallest, preferred, largest) = (read32(data)?, read32(data)?, read32(data)?);
            *blocks = Blocks { smallest, preferred, largest };
        }
        INFO_EXPORT | INFO_BLOCK_SIZE => return Err(wrong("what the server says has the wrong length")),
        _ => {}
    }
    Ok(())
}

fn check(export: Export) -> io::Result<Export> {
    let Blocks { smallest, preferred, largest } = export.blocks;
    if !export.flags.has(Flags::HAS_FLAGS) {
        return Err(wrong("the server does not say what the export can do"));
    }
    if !smallest.is_power_of_two()
        || !preferred.is_power_of_two()
        || preferred < smallest
        || largest < smallest
    {
        return Err(wrong(format!("the server has impossible blocks: {smallest}, {preferred}, {largest}")));
    }
    if export.size > i64::MAX.cast_unsigned() {
        return Err(wrong(format!("the export is impossibly large: {} bytes", export.size)));
    }
    Ok(export)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Random;
    use std::io::Cursor;

    /// A server that has said all of this before it hears anything.
    struct Peer {
        says: Cursor<Vec<u8>>,
        heard: Vec<u8>,
    }

    impl Read for Peer {
        fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
            self.says.read(bytes)
        }
    }

    impl Write for Peer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.heard.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn hello(flags: u16) -> Vec<u8> {
        let mut bytes = b"NBDMAGICIHAVEOPT".to_vec();
        bytes.extend(flags.to_be_bytes());
        bytes
    }

    fn reply(code: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
        bytes.extend(OPTION_GO.to_be_bytes());
        bytes.extend(code.to_be_bytes());
        bytes.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
        bytes.extend(data);
        bytes
    }

    fn info_export(size: u64, flags: u16) -> Vec<u8> {
        let mut data = INFO_EXPORT.to_be_bytes().to_vec();
        data.extend(size.to_be_bytes());
        data.extend(flags.to_be_bytes());
        reply(REPLY_INFO, &data)
    }

    fn info_blocks(sizes: [u32; 3]) -> Vec<u8> {
        let mut data = INFO_BLOCK_SIZE.to_be_bytes().to_vec();
        sizes.iter().for_each(|size| data.extend(size.to_be_bytes()));
        reply(REPLY_INFO, &data)
    }

    fn shake(says: &[Vec<u8>]) -> (io::Result<Export>, Vec<u8>) {
        let mut peer = Peer { says: Cursor::new(says.concat()), heard: Vec::new() };
        (handshake(&mut peer, "disk"), peer.heard)
    }

    fn good() -> Vec<Vec<u8>> {
        vec![
            hello(3),
            info_export(1 << 30, 0x16d),
            info_blocks([1, 4096, 1 << 25]),
            reply(REPLY_INFO, &[0, 9, 1, 2, 3]),
            reply(REPLY_ACK, &[]),
        ]
    }

    #[test]
    fn an_export() {
        let (export, heard) = shake(&good());
        let blocks = Blocks { smallest: 1, preferred: 4096, largest: 1 << 25 };
        assert_eq!(export.unwrap(), Export { size: 1 << 30, flags: Flags(0x16d), blocks });
        assert_eq!(heard, b"\0\0\0\x03IHAVEOPT\0\0\0\x07\0\0\0\x0c\0\0\0\x04disk\0\x01\0\x03");
        let (export, _) = shake(&[hello(1), info_export(512, 1), reply(REPLY_ACK, &[])]);
        assert_eq!(export.unwrap().blocks, ORDINARY);
    }

    #[test]
    fn refusals() {
        let error = |code: u32| vec![hello(3), reply(REPLY_ERROR | code, b"go\x1b[0maway\n")];
        let mut old = b"NBDMAGIC".to_vec();
        old.extend(OLD_MAGIC.to_be_bytes());
        let ack = reply(REPLY_ACK, &[]);
        let with = |more: &[Vec<u8>]| [&[hello(3), info_export(512, 1)], more].concat();
        let mut other = reply(REPLY_ACK, &[]);
        other[11] = 6;
        let mut long = reply(REPLY_INFO, &[]);
        long[16..].copy_from_slice(&u32::MAX.to_be_bytes());
        for (says, why) in [
            (vec![b"SSH-2.0-OpenSSH_9.2 and so on".to_vec()], "no NBD server"),
            (vec![old], "has no options"),
            (vec![hello(2)], "fixed newstyle"),
            (error(1), "does not know NBD_OPT_GO: go?[0maway?"),
            (error(5), "wants TLS"),
            (error(6), "no such export"),
            (error(999), "the server refuses"),
            (vec![hello(3), ack.clone()], "does not say what the export is"),
            (vec![hello(3), info_export(512, 0), ack.clone()], "what the export can do"),
            (vec![hello(3), info_export(u64::MAX, 1), ack.clone()], "impossibly large"),
            (vec![hello(3), reply(REPLY_INFO, &[0, 0, 1])], "wrong length"),
            (with(&[reply(REPLY_INFO, &[0])]), "wrong length"),
            (with(&[info_blocks([0, 4096, 4096]), ack.clone()]), "impossible blocks"),
            (with(&[info_blocks([3, 4096, 4096]), ack.clone()]), "impossible blocks"),
            (with(&[info_blocks([4096, 512, 4096]), ack.clone()]), "impossible blocks"),
            (with(&[info_blocks([4096, 4096, 512]), ack.clone()]), "impossible blocks"),
            (with(&[reply(2, &[])]), "nobody has asked"),
            (with(&[other]), "does not answer"),
            (with(&[long]), "too much"),
            (with(&vec![reply(REPLY_INFO, &[0, 9]); MOST_REPLIES]), "too much"),
        ] {
            let (result, _) = shake(&says);
            let said = result.unwrap_err().to_string();
            assert!(said.contains(why), "{said} is not {why}");
        }
    }

    #[test]
    fn any_end_and_any_noise_is_an_error_or_an_export() {
        let all = good().concat();
        for end in 0..all.len() {
            assert!(shake(&[all[..end].to_vec()]).0.is_err(), "closed at {end}");
        }
        let mut random = Random::new(1);
        for _ in 0..20000 {
            let mut bytes = all.clone();
            for _ in 0..=random.below(3) {
                let at = usize::try_from(random.below(bytes.len() as u64)).unwrap();
                bytes[at] = random.bytes(1)[0];
            }
            if let (Ok(export), _) = shake(&[bytes]) {
                assert!(export.blocks.smallest.is_power_of_two() && export.size >> 63 == 0);
            }
        }
    }
}
