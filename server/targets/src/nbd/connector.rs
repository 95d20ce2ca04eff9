// SPDX-License-Identifier: GPL-2.0

//! A thread that makes connections: the thread of a queue must not wait for a server.

use super::{
    handshake::{Export, handshake},
    say::say,
    stream::{Place, Stream},
    uri::Uri,
    wire::Flags,
};
use std::{
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

/// How long a server may take to answer the handshake.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long to wait before it is tried again, at first and at most. A connection that did not
/// live longer than the latter is not made again at once.
const FIRST_PAUSE: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 50 });
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How to get to an export.
#[derive(Debug)]
pub(crate) struct Way {
    uri: Uri,
    place: Place,
    /// The device was used up to here: it may be larger than the export was at first.
    reach: AtomicU64,
}

impl Way {
    pub(crate) fn find(uri: &Uri) -> io::Result<Way> {
        let place = Place::find(&uri.server);
        let place = place.map_err(|e| io::Error::new(e.kind(), format!("{uri}: {e}")))?;
        Ok(Way { uri: uri.clone(), place, reach: AtomicU64::new(0) })
    }

    /// The device is used up to this byte.
    pub(crate) fn reaches(&self, end: u64) {
        // Mostly it was before, and queues need not fight for it.
        if self.reach.load(Ordering::Relaxed) < end {
            self.reach.fetch_max(end, Ordering::Relaxed);
        }
    }

    /// Connect to it once more: it has to be as good as was promised.
    pub(crate) fn open_again(&self, patience: Duration, promised: &Export) -> io::Result<Stream> {
        let (stream, export) = self.open(patience)?;
        let size = promised.size.max(self.reach.load(Ordering::Relaxed));
        if !is_good_for(&export, &Export { size, ..*promised }) {
            return Err(io::Error::other(format!("{}: the export is not what it was", self.uri)));
        }
        Ok(stream)
    }

    /// Connect to it. Errors say what they are about.
    pub(crate) fn open(&self, patience: Duration) -> io::Result<(Stream, Export)> {
        let end = Instant::now() + patience.min(PATIENCE);
        let open = || {
            let mut stream = Stream::connect(&self.place, end)?;
            let export = stream.until(end, |peer| handshake(peer, &self.uri.export))?;
            Ok((stream, export))
        };
        open().map_err(|e: io::Error| {
            let why = match e.kind() {
                io::ErrorKind::UnexpectedEof => "the server has closed the connection".to_owned(),
                io::ErrorKind::WouldBlock => "the server has too many clients".to_owned(),
                _ => e.to_string(),
            };
            io::Error::new(e.kind(), format!("{}: {why}", self.uri))
        })
    }
}

/// Can what was promised of an export be kept with this one?
fn is_good_for(now: &Export, promised: &Export) -> bool {
    const MORE: Flags =
        Flags(Flags::FLUSH.0 | Flags::FUA.0 | Flags::TRIM.0 | Flags::WRITE_ZEROES.0 | Flags::MULTI_CONN.0);
    let more = Flags(promised.flags.0 & MORE.0);
    // A cache that nobody would flush.
    let hides =
        now.flags.has(Flags::FLUSH) && !promised.flags.has(Flags::FLUSH) && !promised.flags.has(Flags::FUA);
    now.size >= promised.size
        && (!hides || promised.flags.has(Flags::READ_ONLY))
        && now.flags.has(more)
        && now.flags.has(Flags::READ_ONLY) == promised.flags.has(Flags::READ_ONLY)
        && now.blocks.smallest <= promised.blocks.smallest.max(512)
        && now.blocks.largest >= promised.blocks.largest.min(1 << 20)
}

/// How far it is with a connection.
#[derive(Debug)]
pub(crate) enum Post {
    /// It is tried. The bell rings when that has changed.
    Trying,
    /// Here it is.
    Connected(Stream),
    /// It was tried for too long. It still is, but the bell does not ring.
    Late,
}

/// Makes connections to one export, one at a time.
pub(crate) struct Connector {
    shared: Arc<Shared>,
    orders: mpsc::Sender<()>,
    bell: UnixStream,
}

struct Shared {
    way: Arc<Way>,
    promised: Export,
    limit: Duration,
    post: Mutex<Post>,
    closed: AtomicBool,
    /// The other end of the bell.
    rope: UnixStream,
}

impl Connector {
    /// `first` is the first connection, if it is there already. Those that follow have to be
    /// as good as `promised`, and it is not waited for them longer than the limit.
    pub(crate) fn new(
        way: Arc<Way>,
        promised: Export,
        limit: Duration,
        first: Option<Stream>,
    ) -> io::Result<Connector> {
        let (bell, rope) = UnixStream::pair()?;
        rope.set_nonblocking(true)?;
        let (orders, ordered) = mpsc::channel();
        let wanted = first.is_none();
        let post = Mutex::new(first.map_or(Post::Trying, Post::Connected));
        let shared = Arc::new(Shared { way, promised, limit, post, closed: AtomicBool::new(false), rope });
        let theirs = shared.clone();
        thread::Builder::new().name("nbd connect".into()).spawn(move || {
            let mut last = None;
            for () in ordered {
                theirs.work(last);
                last = Some(Instant::now());
            }
        })?;
        let connector = Connector { shared, orders, bell };
        if wanted {
            connector.order();
        }
        Ok(connector)
    }

    /// The last connection is over: make another one.
    pub(crate) fn order(&self) {
        *self.shared.post() = Post::Trying;
        // The thread ends when we do.
        let _ = self.orders.send(());
    }

    /// How far is it? A connection is handed out once.
    pub(crate) fn take(&self) -> Post {
        let mut post = self.shared.post();
        match &*post {
            Post::Late => Post::Late,
            _ => std::mem::replace(&mut *post, Post::Trying),
        }
    }

    /// It can not be used yet.
    pub(crate) fn give_back(&self, stream: Stream) {
        *self.shared.post() = Post::Connected(stream);
    }

    /// A byte comes when there is something to [take](Self::take). There may be bytes without.
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

impl Drop for Connector {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn post(&self) -> MutexGuard<'_, Post> {
        self.post.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, post: Post) {
        *self.post() = post;
        // If there is no room, there are bytes.
        let _ = (&self.rope).write(&[0]);
    }

    /// Connect, however long that takes. The last connection was made at this time.
    fn work(&self, last: Option<Instant>) {
        let begun = Instant::now();
        let (mut pause, mut late, mut said) = (FIRST_PAUSE, false, false);
        if last.is_some_and(|last| last.elapsed() < LONGEST_PAUSE) {
            thread::sleep(pause);
        }
        while !self.closed.load(Ordering::Relaxed) {
            let left = if late { PATIENCE } else { self.limit.saturating_sub(begun.elapsed()) };
            match self.way.open_again(left.max(LONGEST_PAUSE), &self.promised) {
                Ok(stream) => {
                    say(format_args!("connected to {}", self.way.uri));
                    return self.put(Post::Connected(stream));
                }
                Err(e) if !said => {
                    said = true;
                    say(format_args!("no connection: {e}"));
                }
                Err(_) => {}
            }
            let left = self.limit.saturating_sub(begun.elapsed());
            if left.is_zero() && !late {
                late = true;
                say(format_args!("{}: requests fail until there is a connection", self.way.uri));
                self.put(Post::Late);
            }
            thread::sleep(if late { pause } else { pause.min(left) });
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::Scratch, nbd::handshake::Blocks};
    use std::io::Read;

    #[test]
    fn another_export_will_not_do() {
        let blocks = Blocks { smallest: 1, preferred: 4096, largest: 32 << 20 };
        let was = Export { size: 8192, flags: Flags(0x16d), blocks };
        let good = |now: Export| is_good_for(&now, &was);
        assert!(good(was) && good(Export { size: 16384, ..was }));
        assert!(good(Export { blocks: Blocks { smallest: 512, ..blocks }, ..was }));
        assert!(!good(Export { size: 4096, ..was }));
        assert!(!good(Export { flags: Flags(0x16f), ..was }), "read-only");
        assert!(!good(Export { flags: Flags(0x06d), ..was }), "one connection only");
        assert!(!good(Export { flags: Flags(0x169), ..was }), "no flush");
        let (flush, bare) = (Export { flags: Flags(5), ..was }, Export { flags: Flags(1), ..was });
        assert!(!is_good_for(&flush, &bare), "a cache that nobody flushes");
        assert!(!good(Export { blocks: Blocks { smallest: 4096, ..blocks }, ..was }));
        assert!(!good(Export { blocks: Blocks { largest: 65536, ..blocks }, ..was }));
    }

    #[test]
    fn nobody_is_there() {
        let scratch = Scratch::new("nbd-nobody");
        let uri: Uri = format!("nbd+unix:///?socket={}", scratch.path("s").display()).parse().unwrap();
        let way = Arc::new(Way::find(&uri).unwrap());
        let said = way.open(PATIENCE).unwrap_err().to_string();
        assert!(said.contains(&uri.to_string()) && said.contains("No such file"), "{said}");
        let blocks = Blocks { smallest: 1, preferred: 4096, largest: 32 << 20 };
        let promised = Export { size: 8192, flags: Flags(1), blocks };
        let limit = Duration::from_millis(200);
        let begun = Instant::now();
        let connector = Connector::new(way, promised, limit, None).unwrap();
        assert!(matches!(connector.take(), Post::Trying));
        (&connector.bell).read_exact(&mut [0]).unwrap();
        assert!(begun.elapsed() >= limit && begun.elapsed() < 20 * limit);
        assert!(matches!(connector.take(), Post::Late) && matches!(connector.take(), Post::Late));
    }
}
