// SPDX-License-Identifier: GPL-2.0

//! A server of the tests, which does what a script says, however wrong that is.

use crate::model::{Random, Scratch};
use std::{
    io::{self, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// What to do.
#[derive(Clone)]
pub(crate) struct Script {
    pub(crate) flags: u16,
    pub(crate) blocks: [u32; 3],
    /// Connection n is closed when so many bytes were received and sent.
    pub(crate) close_at: Vec<Option<u64>>,
    /// So many replies, if there are so many, come in any order.
    pub(crate) batch: usize,
    /// What is sent comes in small pieces.
    pub(crate) pieces: bool,
    /// What is wrong with the replies of the first so many connections.
    pub(crate) evil: Option<(u64, Evil)>,
    /// The first connection refuses to read, because the server goes away, and keeps writes
    /// until it is [let go](Peer::let_go).
    pub(crate) leaves: bool,
}

/// What is wrong with replies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Evil {
    Magic,
    /// A cookie that differs in this bit.
    Cookie(u32),
    /// The first one comes twice.
    Twice,
    /// An error.
    Error(u32),
    /// None.
    Silence,
}

impl Default for Script {
    fn default() -> Script {
        // All of it.
        let (flags, blocks) = (0x16d, [1, 4096, 32 << 20]);
        Script { flags, blocks, close_at: Vec::new(), batch: 1, pieces: false, evil: None, leaves: false }
    }
}

#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) connections: AtomicU64,
    pub(crate) flushes: AtomicU64,
    pub(crate) fua: AtomicU64,
    /// Connections that were closed after a goodbye.
    pub(crate) closed: AtomicU64,
    /// That were carried out.
    pub(crate) writes: AtomicU64,
    /// The bytes of the last connection.
    pub(crate) bytes: AtomicU64,
}

pub(crate) struct Peer {
    scratch: Scratch,
    shared: Arc<Shared>,
}

struct Shared {
    data: Mutex<Vec<u8>>,
    script: Mutex<Script>,
    seen: Seen,
    /// The connections that there are.
    streams: Mutex<Vec<UnixStream>>,
    stopped: AtomicBool,
    goes: AtomicBool,
    /// What should be a request was none.
    broken: AtomicBool,
}

impl Peer {
    /// A server with these data. Names tell those that run at the same time apart.
    pub(crate) fn start(name: &str, data: Vec<u8>, script: Script) -> Peer {
        let scratch = Scratch::new(&format!("nbd-{name}"));
        let shared = Arc::new(Shared {
            data: Mutex::new(data),
            script: Mutex::new(script),
            seen: Seen::default(),
            streams: Mutex::default(),
            stopped: AtomicBool::new(true),
            goes: AtomicBool::new(false),
            broken: AtomicBool::new(false),
        });
        let peer = Peer { scratch, shared };
        peer.restart();
        peer
    }

    pub(crate) fn uri(&self) -> super::Uri {
        format!("nbd+unix:///?socket={}", self.scratch.path("s").display()).parse().unwrap()
    }

    pub(crate) fn data(&self) -> Vec<u8> {
        self.shared.data.lock().unwrap().clone()
    }

    pub(crate) fn seen(&self) -> &Seen {
        &self.shared.seen
    }

    /// From now on, another script.
    pub(crate) fn now(&self, script: Script) {
        *self.shared.script.lock().unwrap() = script;
    }

    /// There is nobody any more.
    pub(crate) fn stop(&self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        let _ = UnixStream::connect(self.scratch.path("s"));
        let _ = std::fs::remove_file(self.scratch.path("s"));
        for stream in self.shared.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    /// There is somebody again, with the same data, if they were not made others.
    pub(crate) fn restart(&self) {
        self.shared.stopped.store(false, Ordering::SeqCst);
        let listener = UnixListener::bind(self.scratch.path("s")).unwrap();
        let shared = self.shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (stream, shared) = (stream.unwrap(), shared.clone());
                shared.streams.lock().unwrap().push(stream.try_clone().unwrap());
                thread::spawn(move || shared.serve(stream));
            }
        });
    }

    pub(crate) fn resize(&self, len: usize) {
        self.shared.data.lock().unwrap().resize(len, 7);
    }

    pub(crate) fn let_go(&self) {
        self.shared.goes.store(true, Ordering::SeqCst);
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop();
        let broken = self.shared.broken.load(Ordering::SeqCst);
        assert!(thread::panicking() || !broken, "the stream of requests is broken");
    }
}

/// A connection that is closed at a byte.
struct Wire<'s> {
    stream: UnixStream,
    left: Option<u64>,
    pieces: bool,
    random: Random,
    bytes: &'s AtomicU64,
}

impl Wire<'_> {
    /// How much of this may be moved?
    fn most(&mut self, len: usize) -> io::Result<usize> {
        let mut most = len;
        if self.pieces {
            most = most.min(1 + self.random.below(700) as usize);
        }
        match self.left {
            Some(0) => {
                // The bytes that were sent are received, as with TCP.
                let _ = self.stream.shutdown(std::net::Shutdown::Both);
                Err(io::ErrorKind::ConnectionAborted.into())
            }
            Some(left) => Ok(most.min(left as usize)),
            None => Ok(most),
        }
    }

    fn count(&mut self, done: usize) -> usize {
        self.bytes.fetch_add(done as u64, Ordering::Relaxed);
        self.left = self.left.map(|left| left - done as u64);
        done
    }
}

impl Read for Wire<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let most = self.most(bytes.len())?;
        let done = self.stream.read(&mut bytes[..most])?;
        Ok(self.count(done))
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let most = self.most(bytes.len())?;
        let done = self.stream.write(&bytes[..most])?;
        if self.pieces && self.random.below(8) == 0 {
            thread::sleep(Duration::from_micros(100));
        }
        Ok(self.count(done))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn be(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte))
}

impl Shared {
    fn serve(&self, stream: UnixStream) {
        let number = self.seen.connections.fetch_add(1, Ordering::SeqCst);
        self.seen.bytes.store(0, Ordering::Relaxed);
        let script = self.script.lock().unwrap().clone();
        let left = script.close_at.get(number as usize).copied().flatten();
        let random = Random::new(number + 77);
        let mut wire = Wire { stream, left, pieces: script.pieces, random, bytes: &self.seen.bytes };
        let evil = script.evil.filter(|(first, _)| number < *first).map(|(_, evil)| evil);
        // How it ends is what the test is about.
        let _ = self.shake(&mut wire, &script).and_then(|()| match number {
            0 if script.leaves => self.leave(&mut wire),
            _ => self.transmit(&mut wire, &script, evil),
        });
        let _ = wire.stream.shutdown(std::net::Shutdown::Both);
    }

    fn shake(&self, wire: &mut Wire<'_>, script: &Script) -> io::Result<()> {
        wire.write_all(b"NBDMAGICIHAVEOPT\0\x03")?;
        let mut option = [0; 4 + 8 + 4 + 4];
        wire.read_exact(&mut option)?;
        assert_eq!(option[4..16], *b"IHAVEOPT\0\0\0\x07");
        let mut rest = vec![0; be(&option[16..]) as usize];
        wire.read_exact(&mut rest)?;
        let reply = |kind: u32, data: &[u8]| {
            let mut bytes = b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07".to_vec();
            bytes.extend(kind.to_be_bytes());
            bytes.extend((data.len() as u32).to_be_bytes());
            bytes.extend(data);
            bytes
        };
        let size = self.data.lock().unwrap().len() as u64;
        let mut export = vec![0, 0];
        export.extend(size.to_be_bytes());
        export.extend(script.flags.to_be_bytes());
        let mut blocks = vec![0, 3];
        script.blocks.iter().for_each(|block| blocks.extend(block.to_be_bytes()));
        wire.write_all(&reply(3, &export))?;
        wire.write_all(&reply(3, &blocks))?;
        wire.write_all(&reply(1, &[]))
    }

    /// Carry out a request of which one byte is there already. Returns the reply.
    fn request(&self, wire: &mut Wire<'_>, first: u8) -> io::Result<Vec<u8>> {
        let mut head = [first; 28];
        wire.read_exact(&mut head[1..])?;
        if head[..4] != [0x25, 0x60, 0x95, 0x13] {
            self.broken.store(true, Ordering::SeqCst);
            return Err(io::ErrorKind::InvalidData.into());
        }
        let (flags, kind) = (be(&head[4..6]), be(&head[6..8]));
        let (offset, len) = (be(&head[16..24]) as usize, be(&head[24..28]) as usize);
        let mut reply = b"\x67\x44\x66\x98\0\0\0\0".to_vec();
        reply.extend(&head[8..16]);
        self.seen.fua.fetch_add(flags & 1, Ordering::SeqCst);
        match kind {
            0 => reply.extend(&self.data.lock().unwrap()[offset..offset + len]),
            1 => {
                let mut data = vec![0; len];
                wire.read_exact(&mut data)?;
                self.data.lock().unwrap()[offset..offset + len].copy_from_slice(&data);
                self.seen.writes.fetch_add(1, Ordering::SeqCst);
            }
            2 => return Err(io::ErrorKind::ConnectionAborted.into()),
            3 => drop(self.seen.flushes.fetch_add(1, Ordering::SeqCst)),
            4 => self.data.lock().unwrap()[offset..offset + len].fill(0xdd),
            6 => self.data.lock().unwrap()[offset..offset + len].fill(0),
            _ => panic!("request {kind}"),
        }
        Ok(reply)
    }

    /// The end of a server that goes away.
    fn leave(&self, wire: &mut Wire<'_>) -> io::Result<()> {
        let mut kept = Vec::new();
        let mut head = [0; 28];
        loop {
            wire.stream.set_read_timeout(Some(Duration::from_millis(2)))?;
            match wire.read(&mut head[..1]) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if self.goes.load(Ordering::SeqCst) {
                        for (offset, data, reply) in kept.drain(..) {
                            let data: Vec<u8> = data;
                            self.data.lock().unwrap()[offset..offset + data.len()].copy_from_slice(&data);
                            self.seen.writes.fetch_add(1, Ordering::SeqCst);
                            let reply: Vec<u8> = reply;
                            wire.write_all(&reply)?;
                        }
                    }
                    continue;
                }
                Err(e) => return Err(e),
            }
            wire.stream.set_read_timeout(None)?;
            wire.read_exact(&mut head[1..])?;
            let mut reply = b"\x67\x44\x66\x98\0\0\0\0".to_vec();
            reply.extend(&head[8..16]);
            match be(&head[6..8]) {
                1 => {
                    let mut data = vec![0; be(&head[24..28]) as usize];
                    wire.read_exact(&mut data)?;
                    kept.push((be(&head[16..24]) as usize, data, reply));
                }
                2 => {
                    // Who says goodbye also closes it, before there is another connection.
                    wire.stream.set_read_timeout(Some(Duration::from_secs(10)))?;
                    if wire.read(&mut [0])? == 0 {
                        self.seen.closed.fetch_add(1, Ordering::SeqCst);
                    }
                    return Ok(());
                }
                _ => {
                    reply[7] = 108;
                    wire.write_all(&reply)?;
                }
            }
        }
    }

    fn transmit(&self, wire: &mut Wire<'_>, script: &Script, evil: Option<Evil>) -> io::Result<()> {
        loop {
            let mut replies = Vec::new();
            while replies.len() < script.batch {
                // What does not come soon is not waited for.
                let soon = (!replies.is_empty()).then_some(Duration::from_millis(2));
                wire.stream.set_read_timeout(soon)?;
                let mut first = [0];
                match wire.read(&mut first) {
                    Ok(0) => return Ok(()),
                    Ok(_) => {}
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    Err(e) => return Err(e),
                }
                wire.stream.set_read_timeout(None)?;
                replies.push(self.request(wire, first[0])?);
            }
            while !replies.is_empty() {
                let mut reply = replies.swap_remove(wire.random.below(replies.len() as u64) as usize);
                match evil {
                    Some(Evil::Magic) => reply[0] ^= 1,
                    Some(Evil::Cookie(bit)) => reply[8 + bit as usize / 8] ^= 1 << (bit % 8),
                    Some(Evil::Twice) => {
                        let head = reply[..16].to_vec();
                        wire.write_all(&reply)?;
                        // Of a write: no data.
                        reply = head;
                    }
                    Some(Evil::Error(number)) => {
                        reply.truncate(16);
                        reply[4..8].copy_from_slice(&number.to_be_bytes());
                    }
                    Some(Evil::Silence) => continue,
                    None => {}
                }
                wire.write_all(&reply)?;
            }
        }
    }
}
